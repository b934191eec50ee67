"""What all commands share: environment, typed options, one-line errors, exit status."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from tvt_jax.downloads import user_cache
from tvt_jax.errors import UserError


def run(command: Callable[..., Any] | Mapping[str, Callable[..., Any]], prog: str) -> None:
    """Parses the command line, calls the command and exits.

    Args:
      command: a function whose signature and docstring are the options and their help, or several
        of them by subcommand name.
      prog: how the command is called, for the help text.

    Exit status: 0 on success, 2 for a mistake of the user (one line on stderr, no traceback), 130
    when interrupted. Faults of the program keep their traceback.
    """
    import tyro

    set_jax_environment()
    with user_errors_exit():
        options = (tyro.conf.FlagCreatePairsOff,)  # avoids --no-no-tags
        if callable(command):
            tyro.cli(command, prog=prog, config=options)
        else:
            tyro.extras.subcommand_cli_from_dict(dict(command), prog=prog, config=options)


def set_jax_environment() -> None:
    """Sets what JAX reads when it is imported; what the user has set stays.

    Compiled programs are kept on disk, so that the second run of a command starts at once.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's C++ log lines
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(user_cache() / "xla"))


@contextlib.contextmanager
def user_errors_exit() -> Iterator[None]:
    """Turns a `UserError` into one line on stderr and exit status 2, Ctrl-C into status 130."""
    try:
        yield
    except (UserError, KeyboardInterrupt) as error:
        sys.exit(print_error(error))


def print_error(error: BaseException) -> int:
    """Prints what ended a command on stderr; returns its exit status.

    A `UserError` is one line. Faults of the program have their traceback.
    """
    if isinstance(error, UserError):
        print_line(f"error: {with_options(str(error))}", sys.stderr)
        return 2
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    traceback.print_exception(error)
    return 1


def with_options(message: str) -> str:
    """Puts options in the place of parameters: --ram-data for `ram_data`.

    Fields of a training configuration keep their names, --config.data.crop=63.
    """
    message = re.sub(r"`(\w+)`", lambda name: "--" + name[1].replace("_", "-"), message)
    return re.sub(r"`(config\.[^`]+)`", r"--\1", message)


def print_line(line: str, file: TextIO | None = None) -> None:
    """Prints a line that may hold file names, with control characters escaped."""
    print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line), file=file, flush=True)
