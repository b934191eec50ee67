"""Whether an image is restored whole or by tiles: what each takes, against the memory there is."""

from typing import NamedTuple

import jax

from tvt_jax import memory
from tvt_jax.config import VAEConfig
from tvt_jax.errors import UserError
from tvt_jax.inference.options import RestorationOptions
from tvt_jax.inference.tiling import SAMPLE_CROP, Tiles, cut

_LARGEST_TILE, _SMALLEST_TILE = 1024, 512
_MARGIN = 64  # px
_CROPS = (144, 100, 64, 36, 16)
_COMFORT = 2 * 2**30  # bytes that tiles take of a CPU's memory when nothing is asked for
_WHOLE = 19  # bytes a pixel beside the networks: float32 and 8 bits out, 8 bits in, to be encoded


class MemoryPlan(NamedTuple):
    """How an image is restored.

    Attributes:
      tiles: None where it is restored whole.
      needed: bytes that it is expected to take beside what the program holds already.
    """

    tiles: Tiles | None
    needed: float

    def described(self, size: tuple[int, int]) -> str:
        """One line: the tiles of an image of (height, width) and what memory is expected."""
        return (
            f"{size[1]}x{size[0]} px by {len(cut(size, self.tiles))} tiles of {self.tiles.side} px"
            f"; about {self.needed / 2**30:.1f} GiB of memory beside the program and the output"
        )


class MemoryNeed(NamedTuple):
    """Bytes a pixel that the networks work on.

    Attributes:
      resident: that are held at a time.
      largest: of the largest single allocation.
    """

    resident: float
    largest: float

    def of(self, pixels: int, beside: float = 0) -> float:
        """Bytes for so many pixels, and others."""
        return max(self.resident * pixels + beside, self.largest * pixels)


def memory_need(vae: VAEConfig, platform: str, devices: int = 1) -> MemoryNeed:
    """What the widest part takes of a device, the decoder at full resolution.

    The compiler's scratch is about 20 bytes a pixel and channel. On a CPU half as much comes on
    top, and a 3 x 3 convolution, where it is not Winograd's, lays out its windows, which
    `memory_analysis` does not count.

    Args:
      vae: its two widest levels count.
      platform: "cpu", "gpu" or "tpu".
      devices: as of `plan_memory`.
    """
    first, second = vae.block_out_channels[:2]
    if platform == "cpu":
        return MemoryNeed(30.0 * first, 36.0 * max(first, second))
    return MemoryNeed(20.0 * first / devices, 20.0 * first / devices)


def plan_memory(
    size: tuple[int, int],
    vae: VAEConfig,
    unit: int,
    options: RestorationOptions,
    to_write: float = 0.0,
    devices: int = 1,
) -> MemoryPlan:
    """Decides how an image is restored, before anything is enlarged.

    Args:
      size: (height, width) that the networks work at, px.
      vae: its widest level decides what a pixel takes.
      unit: px that the networks reduce to one position; starts of tiles are multiples of it.
      options: `tile`, `tile_overlap` and `max_memory`.
      to_write: bytes a pixel that the output takes while it is written, beside itself.
      devices: that share an image; on a CPU they have one memory.

    Raises:
      UserError: it fits neither way, or the options do not fit the model.
    """
    platform = jax.local_devices()[0].platform
    need, budget = memory_need(vae, platform, devices), _budget(options.max_memory)
    pixels = size[0] * size[1]
    whole = need.of(pixels, _WHOLE * pixels)
    if options.tile == "none" or (options.tile == "auto" and whole <= budget):
        if whole > budget:
            _refuse(size, "", whole, budget, "leave `tile` to be chosen")
        return MemoryPlan(None, whole)
    margin = _ceil(_MARGIN if options.tile_overlap is None else options.tile_overlap, unit)
    smallest = _ceil(max(2 * margin + unit, SAMPLE_CROP), unit)
    comfort = budget
    if options.max_memory is None:
        comfort = min(budget / 2, _COMFORT) if platform == "cpu" else budget / 2
    if options.tile == "auto":
        side = max(_ceil(_SMALLEST_TILE, unit), smallest)
        while side + unit <= _LARGEST_TILE and need.of((side + unit) ** 2) <= comfort:
            side += unit
    else:
        side = options.tile
        if side % unit or side < smallest:
            raise UserError(
                f"`tile` {side} must be a multiple of {unit} px and at least {smallest} with this "
                "model and `tile_overlap`."
            )
    if side >= max(size):
        return MemoryPlan(None, whole)
    if to_write * pixels > budget:
        advice = "write PNG, which is written row by row"
        _refuse(size, " in this format", to_write * pixels, budget, advice)
    if need.of(side**2) > budget:
        advice = "use a smaller `tile`" if options.tile != "auto" else "give it more memory"
        _refuse(size, f" by tiles of {side} px", need.of(side**2), budget, advice)
    sizes = [n for n in _CROPS if need.of(n * SAMPLE_CROP**2) <= comfort]
    crops = max(sizes, default=_CROPS[-1])
    needed = max(need.of(max(side**2, crops * SAMPLE_CROP**2)), to_write * pixels)
    return MemoryPlan(Tiles(side, margin, unit, crops), needed)


def _budget(max_memory: float | None) -> float:
    """Bytes that the work may take."""
    free = memory.free_memory()
    free = float("inf") if free is None else free
    return free if max_memory is None else min(free, max_memory * 2**30 - memory.used_memory())


def _refuse(size: tuple[int, int], how: str, needed: float, budget: float, advice: str) -> None:
    raise UserError(
        f"an image of {size[1]}x{size[0]} px{how} takes about {needed / 2**30:.1f} GiB of memory "
        f"and {max(budget, 0) / 2**30:.1f} GiB are free{memory.limit_of_gpus()}; {advice}."
    )


def _ceil(px: int, unit: int) -> int:
    return -(-px // unit) * unit
