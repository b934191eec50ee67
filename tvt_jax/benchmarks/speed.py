"""What a compiled program takes: time, memory, and how far it is from what the devices can do."""

import dataclasses
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tvt_jax.errors import UserError
from tvt_jax.files import write_json
from tvt_jax.progress import progress

_TITLES = (
    "what", "batch", "images/s (at most)", "s a call (range)", "CPU s a call", "floor, s",
    "share of matmul rate", "GiB at most", "GiB held", "GiB for a call", "compiled in",
)  # fmt: skip


WARM_UP = 2  # calls that are not timed


class Program(NamedTuple):
    """A compiled program with its arguments.

    Attributes:
      run: calls it.
      dtype: of most of its products.
      devices, batch_size, flops, held, needed, compile_seconds: as of `Speed`.
    """

    run: Callable[[], Any]
    dtype: str
    devices: int
    batch_size: int
    flops: float
    held: int
    needed: int | None
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class Speed:
    """Figures of a program.

    Attributes:
      what: it does, in words.
      device: kind of the devices. devices: how many.
      batch_size: images in a call.
      seconds: of a call: (median, least, most).
      cpu_seconds: of a call on a CPU, the median, of all threads; None on an accelerator.
      flops: of a call's products in layers and attention, nothing computed twice.
      matmul_rate: FLOP/s of large matrix products on these devices, see `matmul_rate`.
      held: bytes of the arguments (weights, optimizer, batch) on each device: the floor of memory.
        None where it is not known, as of PyTorch.
      needed: bytes beyond them for a call, by the compiler; None where it does not report them.
      peak: most bytes in use since the process began, on a device, or on a CPU by the process; None
        where not reported.
      compile_seconds: until the first call can begin.
    """

    what: str
    device: str
    devices: int
    batch_size: int
    seconds: tuple[float, float, float]
    cpu_seconds: float | None
    flops: float
    matmul_rate: float
    held: int | None
    needed: int | None
    peak: int | None
    compile_seconds: float

    @property
    def images_per_second(self) -> float:
        """By the median."""
        return self.batch_size / self.seconds[0]

    @property
    def floor(self) -> float:
        """Seconds (on a CPU, CPU seconds) that the products alone take at the rate of matmuls."""
        return self.flops / self.matmul_rate

    @property
    def share(self) -> float:
        """Of the rate of matmuls; on a CPU by CPU seconds, which other programs hardly change."""
        return self.floor / (self.cpu_seconds or self.seconds[0])

    def cells(self) -> list[str]:
        """A row of `speed_table`."""
        median, least, most = self.seconds
        # Threads of a CPU share its seconds: what the clock could show is not known.
        limit = "" if self.cpu_seconds else f" ({self.batch_size / self.floor:.3g})"
        memory = [
            "" if n is None else f"{n / 2**30:.2f}" for n in (self.peak, self.held, self.needed)
        ]
        return [
            f"{self.what}, {self.devices} x {self.device}",
            str(self.batch_size),
            f"{self.images_per_second:.3g}{limit}",
            f"{median:.3g} ({least:.3g} - {most:.3g})",
            "" if self.cpu_seconds is None else f"{self.cpu_seconds:.3g}",
            f"{self.floor:.3g}",
            f"{self.share:.0%}",
            *memory,
            f"{self.compile_seconds:.0f} s",
        ]


def speed_table(speeds: Sequence[Speed]) -> str:
    """The figures of several programs, in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (_TITLES, *(s.cells() for s in speeds))]
    return "\n".join([lines[0], "|---" * len(_TITLES) + "|", *lines[1:]])


def write_speeds(path: Path, speeds: Sequence[Speed], **beside: Any) -> None:
    """Writes the figures, and others beside them, as JSON."""
    rows = [
        {**dataclasses.asdict(s), "floor": s.floor, "share": s.share,
         "images_per_second": s.images_per_second}
        for s in speeds
    ]  # fmt: skip
    versions = {"jax": jax.__version__}
    write_json(path, {"speeds": rows, "versions": versions, **beside})


def time_call(call: Callable[[], Any]) -> tuple[float, float]:
    """(seconds, CPU seconds of all threads) until the results of a call are there."""
    start, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return time.perf_counter() - start, time.process_time() - cpu


def program_speed(what: str, rounds: int, make: Callable[..., Program], *arguments: Any) -> Speed:
    """Compiles a program and times it on this process's devices.

    Args:
      what: as of `Speed`.
      rounds: how many calls are timed, after `WARM_UP`.
      make, arguments: a function that compiles it, and its arguments.

    Raises:
      UserError: there are no rounds; or as `make`.
    """
    if rounds < 1:
        raise UserError("`rounds` must be at least 1.")
    program = make(*arguments)
    times = [time_call(program.run) for _ in progress(range(WARM_UP + rounds), "rounds")]
    return Speed(what=what, **timings(times[WARM_UP:]), **program_figures(program))


def program_figures(program: Program) -> dict[str, Any]:
    """What `Speed` says of a program that has run, but for its times."""
    peak = peak_memory()  # before more is computed
    known = program._asdict()
    del known["run"], known["dtype"]
    rate = program.devices * matmul_rate(program.dtype)
    return {
        "device": jax.local_devices()[0].device_kind,
        "peak": peak,
        "matmul_rate": rate,
        **known,
    }


def timings(times: Sequence[tuple[float, float]], on_cpu: bool | None = None) -> dict[str, Any]:
    """`seconds` and `cpu_seconds` of `Speed`.

    Args:
      times: what `time_call` returned.
      on_cpu: where they were taken; None for JAX's default device.
    """
    if on_cpu is None:
        on_cpu = jax.default_backend() == "cpu"
    wall, cpu = zip(*times, strict=True)
    return {
        "seconds": (statistics.median(wall), min(wall), max(wall)),
        "cpu_seconds": statistics.median(cpu) if on_cpu else None,
    }


def peak_memory() -> int | None:
    """`peak` of `Speed`."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux
    return (device.memory_stats() or {}).get("peak_bytes_in_use")


def matmul_rate(dtype: str, side: int | None = None, rounds: int = 5) -> float:
    """FLOP/s of products of large square matrices on the default device, the fastest round.

    On a CPU, FLOP per CPU second of all threads.

    Args:
      dtype: of the matrices and of the results.
      side: of the matrices. Default: 8192 on an accelerator, 1024 on a CPU.
      rounds: how often, after one that is not timed.
    """
    on_cpu = jax.default_backend() == "cpu"
    side, products = side or (1024 if on_cpu else 8192), 4 if on_cpu else 16
    keys = jax.random.split(jax.random.key(0))
    # Not zeros, of which a device multiplies more; scaled so that they stay finite.
    left, right = (jax.random.normal(key, (side, side), dtype) * side**-0.5 for key in keys)

    @jax.jit
    def multiply(left, right):
        return jax.lax.fori_loop(0, products, lambda _, x: jnp.matmul(x, right), left)

    jax.block_until_ready(multiply(left, right))
    times = [time_call(lambda: multiply(left, right)) for _ in range(rounds)]
    fastest = min(cpu if on_cpu else wall for wall, cpu in times)
    return products * 2.0 * side**3 / fastest
