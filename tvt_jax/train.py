"""`python -m tvt_jax.train --config configs/stage2.py`: train a stage.

A variant follows the file after a colon (`configs/stage2.py:tiny`), and any field of the
configuration (`tvt_jax/config/training.py` and, of stage 3, `restoration.py` list them) can be set:
`--config.optim.learning_rate=1e-4`, `--config.trained="('encoder', 'quant_conv')"`. Checkpoints,
logs and the result go to `--workdir`, `runs/stage2-tiny` for `configs/stage2.py:tiny`. Run the same
command again to resume. On several machines, start it on each with `--distributed`.
"""

import logging as python_logging
import sys
import warnings
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from tvt_jax.cli import print_error, set_jax_environment, user_errors_exit
from tvt_jax.config import TrainConfig, read_config
from tvt_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Configuration file, and a variant of it after a colon."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run, local or gs://BUCKET/...; resumed if it holds one. Default: the "
    "configuration's name and variant under runs/, for example runs/stage2-tiny.",
)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "This is one process of several.")
_QUIET = flags.DEFINE_bool("quiet", False, "Print nothing but errors.")


def main(argv: list[str]) -> None:
    """Trains as configured; see the module's docstring."""
    set_jax_environment()
    with user_errors_exit():
        if len(argv) > 1:
            raise UserError(f"unknown argument {argv[1]}; options start with --.")
        if _CONFIG.value is None:
            raise UserError("--config is missing; for example --config configs/stage2.py:tiny.")
        source = config_flags.get_config_filename(flags.FLAGS["config"])
        _check_file(source)
        config, workdir = _CONFIG.value, _WORKDIR.value or default_workdir(source)
        _validate(config, source)
        # Orbax and Grain log every file that they touch, and from their threads whatever is raised
        # here in one line.
        logging.set_verbosity(logging.FATAL)
        python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
        sys.unraisablehook = _report
        warnings.filterwarnings("ignore", message="coroutine .* was never awaited")

        from tvt_jax.processes import ending_together, start_processes
        from tvt_jax.training.loop import train

        if _DISTRIBUTED.value:
            start_processes()
        with ending_together(print_error):
            train(config, workdir, quiet=_QUIET.value)


def default_workdir(source: str) -> str:
    """The folder of a run of "configs/stage1.py:V1,tiny" is "runs/stage1-V1-tiny"."""
    path, _, variant = source.partition(":")
    return "/".join(["runs", "-".join([Path(path).stem, *filter(None, variant.split(","))])])


def _check_file(source: str) -> None:
    path = source.partition(":")[0]
    if not Path(path).is_file():
        raise UserError(f"--config {path} does not exist; run the command in the project's folder.")


def _validate(config: TrainConfig, source: str) -> None:
    """Checks the configuration; without any data given, the error also names the variant `tiny`."""
    try:
        config.validate()
    except UserError as error:
        tiny = f"{source.partition(':')[0]}:tiny"
        if config.data.train or not _runs_as_it_is(tiny):
            raise
        raise UserError(f"{error} To try it without: --config {tiny} runs as it is.") from error


def _runs_as_it_is(source: str) -> bool:
    try:
        read_config(source).validate()
    except (UserError, TypeError):  # TypeError: a file of the user's own, without variants
        return False
    return True


def _report(failure) -> None:
    """Prints an unraisable exception, unless it only follows from another error.

    After a save that failed, TensorStore's threads still report to an event loop that is closed.
    """
    if str(failure.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(failure)


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags; a mistake in them or in the configuration's file is one line, status 2."""
    with user_errors_exit():
        try:
            return flags.FLAGS(argv)
        except (flags.Error, ValueError, TypeError, AttributeError, KeyError, OSError) as error:
            last = str(error).strip().splitlines()[-1].strip()
            raise UserError(last.removeprefix("ValueError: ")) from error


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
