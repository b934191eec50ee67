"""Whether a compiled program fits the memory of the machine, asked before it runs."""

import jax

from tvt_jax.errors import UserError


def check_fits(
    compiled: jax.stages.Compiled,
    what: str,
    advice: str = "use a smaller image or a smaller --scale",
) -> None:
    """Compares the compiler's figure with the memory that is free.

    Args:
      compiled: for the default device; its arguments are in memory already.
      what: the work, for the error message.
      advice: what to do about it, for the error message.

    Raises:
      UserError: it does not fit. (Without this, Linux would kill the process without a word.)
    """
    analysis, free = compiled.memory_analysis(), free_memory()
    if analysis is None or free is None:
        return
    needed = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    if needed > free:
        raise UserError(
            f"{what} needs {needed / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB are "
            f"free; {advice}."
        )


def free_memory() -> int | None:
    """Bytes that are free on the default device; None where the platform does not tell."""
    device = jax.devices()[0]
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
