"""Whether a compiled program fits the memory, checked before it runs."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import jax

from tvt_jax.compiler import compile_program, compiler_options
from tvt_jax.errors import UserError


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
    compiled = compile_program(lowered, what, advice, compiler_options())
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
            f"free{limit_of_gpus()}; {advice}."
        )
    return compiled, needed


def limit_of_gpus() -> str:
    """The part of a GPU that is free at most, which JAX limits itself to, and how to change it."""
    if jax.default_backend() != "gpu":
        return ""
    share = os.environ.get("XLA_CLIENT_MEM_FRACTION", "0.75")
    return f" (of {float(share):.0%} of the GPU; XLA_CLIENT_MEM_FRACTION raises that)"


def free_memory() -> int | None:
    """Bytes that are free on the default device; None where the platform does not tell.

    On a CPU that is what the machine, the limits of the control group and `ulimit -v` leave.
    """
    device = jax.local_devices()[0]  # of another process: no statistics
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        return None if limit is None else limit - stats.get("bytes_in_use", 0)
    bounds = [_available_memory(), *_free_in_control_groups(), _free_address_space()]
    return min((max(bound, 0) for bound in bounds if bound is not None), default=None)


def used_memory() -> int:
    """Bytes that this process holds on the default device; 0 where the platform does not tell."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_in_use", 0)
    return (_process_memory() or (0, 0))[1]


def _available_memory() -> int | None:
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return None


def _free_in_control_groups(
    membership: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """What the limits of this process's groups leave, version 2 and 1 of cgroups."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, limit, used = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        elif not controllers:
            root, limit, used, cache = "", "memory.max", "memory.current", "inactive_file"
        else:
            continue
        # A container may show its own group as the root: the path need not exist.
        for folder in (PurePosixPath(group), *PurePosixPath(group).parents):
            path = mounted / root / str(folder).lstrip("/")
            try:
                stat = (path / "memory.stat").read_text().splitlines()
                reclaimable = int(dict(line.split() for line in stat)[cache])
                held = int((path / used).read_text()) - reclaimable
                yield int((path / limit).read_text()) - held
            except (OSError, KeyError, ValueError):  # no such group, or "max"
                continue


def _free_address_space() -> int | None:
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    except ImportError:  # Windows
        return None
    sizes = _process_memory()
    return None if limit == resource.RLIM_INFINITY or sizes is None else limit - sizes[0]


def _process_memory() -> tuple[int, int] | None:
    """Bytes of this process's address space, and of it in memory; None where nobody tells."""
    try:
        sizes = Path("/proc/self/statm").read_text().split()[:2]
        return tuple(int(pages) * mmap.PAGESIZE for pages in sizes)
    except OSError:  # not Linux
        return None
