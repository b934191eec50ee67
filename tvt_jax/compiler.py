"""How programs are compiled: XLA's options, and what is said where a program does not fit."""

from collections.abc import Mapping

import jax

from tvt_jax.errors import UserError


def compiler_options() -> dict[str, str] | None:
    """XLA's options for the default backend.

    On a CPU XLA hands products of matrices and convolutions to YNNPACK. It is fast at the first,
    but packs the weights of a convolution anew at each call: where an image has few pixels beside
    its channels, that takes many times what the products take. So it gets the first only.
    """
    if jax.default_backend() != "cpu":
        return None
    return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def compile_program(
    lowered: jax.stages.Lowered,
    what: str,
    advice: str,
    options: Mapping[str, str] | None = None,
) -> jax.stages.Compiled:
    """Compiles a program.

    Args:
      lowered: the program.
      what: the work, for the error message.
      advice: what the user can do, for the error message.
      options: of the compiler.

    Raises:
      UserError: the compiler reports that it does not fit the device, as TPU compilers do.
    """
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"{what} does not fit the device ({reason}); {advice}.") from error
