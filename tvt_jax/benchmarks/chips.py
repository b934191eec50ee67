"""What data sheets say of TPU chips."""

import dataclasses

from tvt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip.

    Attributes:
      peak: TFLOP/s of dense bfloat16 products.
      links: GB/s of the links to its neighbours, both directions together.
      cores: virtual CPUs of the host for each chip.
    """

    peak: float
    links: float
    cores: int


# Google Cloud's documentation, cloud.google.com/tpu/docs/v5e, v5p and v6e (November 2026).
CHIPS = {"v5e": Chip(197, 400, 28), "v5p": Chip(459, 1200, 52), "v6e": Chip(918, 800, 45)}


def chip_of(topology: str) -> Chip:
    """The chip of a slice ("v5e:2x4") or by its own name; raises UserError for an unknown one."""
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise UserError(f"`chip` {name} is not one of {', '.join(CHIPS)}.")
    return CHIPS[name]
