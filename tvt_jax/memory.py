"""Whether a compiled program fits the memory, checked before it runs."""

import os

import jax

from tvt_jax.errors import UserError


def compile_program(lowered: jax.stages.Lowered, what: str, advice: str) -> jax.stages.Compiled:
    """Compiles a program.

    Args:
      lowered: the program.
      what: the work, for the error message.
      advice: what the user can do, for the error message.

    Raises:
      UserError: the compiler reports that it does not fit the device, as TPU compilers do.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"{what} does not fit the device ({reason}); {advice}.") from error


def compile_to_fit(
    lowered: jax.stages.Lowered, what: str, advice: str
) -> tuple[jax.stages.Compiled, int | None]:
    """Compiles a program and compares what it needs with the memory that is free.

    Args:
      lowered: the program, for the default device; its arguments are in memory already.
      what, advice: as of `compile_program`.

    Returns: (the program, bytes on each device that it needs on top of its arguments; None where
      the platform does not tell).
    Raises:
      UserError: it does not fit. (Without this, Linux would kill the process without a word.)
    """
    compiled = compile_program(lowered, what, advice)
    analysis, free = compiled.memory_analysis(), free_memory()
    if analysis is None:
        return compiled, None
    needed = (
        analysis.temp_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes  # donated arguments become outputs
    )
    if free is not None and needed > free:
        raise UserError(
            f"{what} needs {needed / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB are "
            f"free{_limit_of_gpus()}; {advice}."
        )
    return compiled, needed


def _limit_of_gpus() -> str:
    """The part of a GPU that is free at most, which JAX limits itself to, and how to change it."""
    if jax.default_backend() != "gpu":
        return ""
    share = os.environ.get("XLA_CLIENT_MEM_FRACTION", "0.75")
    return f" (of {float(share):.0%} of the GPU; XLA_CLIENT_MEM_FRACTION raises that)"


def free_memory() -> int | None:
    """Bytes that are free on the default device; None where the platform does not tell."""
    device = jax.local_devices()[0]  # of another process: no statistics
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        return None if limit is None else limit - stats.get("bytes_in_use", 0)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":") for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return None
