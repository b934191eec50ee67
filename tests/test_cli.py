"""What all commands share."""

import pytest

from tvt_jax.cli import print_line, user_errors_exit
from tvt_jax.errors import UserError


def test_an_error_is_one_line_that_names_options(capsys):
    with pytest.raises(SystemExit) as status, user_errors_exit():
        raise UserError("`ram_data` needs `ram`; try `python -m tvt_jax.convert official`.")
    assert status.value.code == 2
    message = "error: --ram-data needs --ram; try `python -m tvt_jax.convert official`.\n"
    assert capsys.readouterr().err == message


def test_fields_of_a_configuration_keep_their_names(capsys):
    with pytest.raises(SystemExit), user_errors_exit():
        raise UserError("`config.data.batch_size=3` is too small; lower `config.accumulate`.")
    message = "--config.data.batch_size=3 is too small; lower --config.accumulate."
    assert capsys.readouterr().err == f"error: {message}\n"


def test_names_that_would_steer_a_terminal_are_escaped(capsys):
    print_line("\x1b[31mred \udcff caf\u00e9.png")
    assert capsys.readouterr().out == "\\x1b[31mred \\udcff caf\u00e9.png\n"
