"""`python -m tvt_jax.train --config configs/stage2.py --workdir runs/stage2`: train a stage.

A variant follows the file after a colon (`configs/stage2.py:tiny`), and any field of the
configuration (`tvt_jax/config/training.py` and, of stage 3, `restoration.py` list them) can be set:
`--config.optim.learning_rate=1e-4`, `--config.trained="('encoder', 'quant_conv')"`. Run the same
command again to resume. On several machines, start it on each with `--distributed`.
"""

import logging as python_logging
import sys
import warnings
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from tvt_jax.cli import set_jax_environment, user_errors_exit
from tvt_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Configuration file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; resumed if it holds one.")
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
        if not _WORKDIR.value:
            raise UserError("--workdir is missing; give a folder for checkpoints and logs.")
        config = _CONFIG.value
        try:
            config.validate()
        except OSError as error:  # ml_collections tells only now that there is no such file
            raise UserError(f"--config: {str(error).strip().splitlines()[-1].strip()}") from error
        # Orbax and Grain log every file that they touch, and from their threads whatever is raised
        # here in one line.
        logging.set_verbosity(logging.FATAL)
        python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
        sys.unraisablehook = _report
        warnings.filterwarnings("ignore", message="coroutine .* was never awaited")

        from tvt_jax.parallel import start_processes
        from tvt_jax.training.loop import train

        if _DISTRIBUTED.value:
            start_processes()
        train(config, Path(_WORKDIR.value), quiet=_QUIET.value)


def _report(failure) -> None:
    """Prints what was raised where nobody can catch it, unless it only follows from another error.

    After a save that failed, TensorStore's threads still report to an event loop that is closed.
    """
    if str(failure.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(failure)


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags; a mistake in them or in the configuration's file is one line, status 2."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, ValueError, TypeError, AttributeError, KeyError, OSError) as error:
        print(f"error: {str(error).strip().splitlines()[-1].strip()}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
