"""What a user chooses about a restoration: the same in the API and in the commands."""

import dataclasses
import numbers
from typing import Literal, get_args

from tvt_jax.errors import UserError, check_type

ColorFix = Literal["adain", "wavelet", "lab", "none"]
Posterior = Literal["mean", "sample"]
MAX_SCALE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class RestorationOptions:
    """How images are restored.

    Attributes:
      scale: output size over input size, 1 to 8; the models are trained for 4.
      prompt: text to guide the restoration, used as it is; tags, when there are any, go before it.
        Left out: the release's fixed words, or the stored embedding of a model that has no text
        encoder and takes no prompt.
      color_fix: take the colours of the input: adain matches mean and deviation of red, green and
        blue, lab those of lightness and colour, wavelet takes low frequencies.
      blend: share of the enlarged input in the output, 0 to 1.
      posterior: mean of the encoder's distribution (repeatable), or a sample as the release.
      seed: of that sample; 0 if left out.
      tile: work on parts of this many px (of the output) at a time; auto: on the whole where the
        memory allows it, else on as large parts as suit it; none: always on the whole.
      tile_overlap: px that a tile sees beyond its own part on each side; 64 if left out.
      max_memory: GiB that the program may take; if left out, what is free.

    Raises:
      UserError: a value is out of range, or has no effect beside the others.
    """

    scale: float = 4
    prompt: str | None = None
    color_fix: ColorFix = "adain"
    blend: float = 0.0
    posterior: Posterior = "mean"
    seed: int | None = None
    tile: Literal["auto", "none"] | int = "auto"
    tile_overlap: int | None = None
    max_memory: float | None = None

    def __post_init__(self):
        check_type("scale", self.scale, numbers.Real)
        check_type("blend", self.blend, numbers.Real)
        if not 0 <= self.blend <= 1:
            raise UserError(f"`blend` {self.blend} is not between 0 and 1.")
        check_type("prompt", self.prompt, str, type(None))
        check_type("seed", self.seed, numbers.Integral, type(None))
        if not 1 <= self.scale <= MAX_SCALE:
            raise UserError(
                f"`scale` {self.scale} is not between 1 and {MAX_SCALE}; models are made for 4."
            )
        for name, choices in (("color_fix", ColorFix), ("posterior", Posterior)):
            if getattr(self, name) not in get_args(choices):
                raise UserError(
                    f"`{name}` {getattr(self, name)} is not one of {', '.join(get_args(choices))}."
                )
        if not (self.tile in ("auto", "none") or (isinstance(self.tile, int) and self.tile > 0)):
            raise UserError(f"`tile` {self.tile} is neither auto nor none nor a number of px.")
        if self.tile_overlap is not None:
            if self.tile == "none":
                raise UserError("`tile_overlap` has no effect without tiles.")
            if not 0 <= self.tile_overlap <= 512:
                raise UserError(f"`tile_overlap` {self.tile_overlap} is not between 0 and 512 px.")
        if self.max_memory is not None and not self.max_memory > 0:
            raise UserError(f"`max_memory` {self.max_memory} GiB must be positive.")
        if self.seed is not None:
            if self.posterior != "sample":
                raise UserError("`seed` has no effect unless `posterior` is sample.")
            if not 0 <= self.seed < 2**32:
                raise UserError(f"`seed` {self.seed} is not between 0 and 2^32 - 1.")

    @property
    def seed_of_sample(self) -> int | None:
        """The seed of a sample of the posterior; None where its mean is taken."""
        return (self.seed or 0) if self.posterior == "sample" else None


DEFAULTS = RestorationOptions()
