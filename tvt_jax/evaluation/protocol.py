"""How images are compared: choices that move PSNR and SSIM by more than methods do, with names."""

import dataclasses
from typing import Literal

import numpy as np

from tvt_jax.errors import UserError
from tvt_jax.metrics.color import luma
from tvt_jax.metrics.psnr import psnr
from tvt_jax.metrics.ssim import ssim


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What PSNR and SSIM are measured on; the other metrics have one definition each.

    Attributes:
      name: by which it is chosen, and which stands in every table and report.
      source: who measures so.
      metrics: of `quality.METRICS`, those that its tables have.
      channel: luma of BT.601 (16 to 235), or the mean of red, green and blue.
      border: px on each side that do not count.
      psnr_epsilon: see `psnr`.
      round_luma: whether SSIM sees luma as integers; PSNR never does.
      clip_contrast: see `ssim`.
    """

    name: str
    source: str
    metrics: tuple[str, ...]
    channel: Literal["Y", "RGB"]
    border: int
    psnr_epsilon: float = 0.0
    round_luma: bool = False
    clip_contrast: bool = False

    def psnr(self, image: np.ndarray, reference: np.ndarray) -> float:
        """PSNR of [H, W, 3] uint8, dB."""
        return psnr(self._channel(image), self._channel(reference), self.psnr_epsilon)

    def ssim(self, image: np.ndarray, reference: np.ndarray) -> float:
        """SSIM of [H, W, 3] uint8."""
        pair = self._channel(image), self._channel(reference)
        if self.round_luma:
            pair = tuple(np.round(x) for x in pair)
        return ssim(*pair, self.clip_contrast)

    def _channel(self, image):
        inside = slice(self.border, -self.border or None)
        image = image[inside, inside]
        return luma(image) if self.channel == "Y" else image

    def described(self) -> str:
        """The choices in a line."""
        channel = "Y of BT.601 (16 to 235)" if self.channel == "Y" else "RGB"
        border = f"{self.border} px cut on each side" if self.border else "no border cut"
        line = f"{self.name} ({self.source}): PSNR and SSIM on {channel}, {border}"
        if self.psnr_epsilon:
            line += f", PSNR with {self.psnr_epsilon:g} added to the mean square error"
        if self.round_luma:
            line += ", SSIM on rounded Y"
        if self.clip_contrast:
            line += ", negative contrast terms of SSIM 0"
        return line + "; 8-bit images, means over images"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # What OSEDiff's evaluation measures and FSIMc; its published figures are met exactly.
        Protocol(
            "paper", "Tables 2 and 6 of TVT", ("psnr", "ssim", "fsimc", "lpips-alex", "dists"),
            "Y", 0, psnr_epsilon=1e-8, round_luma=True, clip_contrast=True,
        ),
        Protocol(
            "classic", "super-resolution before diffusion",
            ("psnr", "ssim", "lpips-vgg", "lpips-alex"), "Y", 4,
        ),
        Protocol("realce", "Real-CE, Table 3 of TVT", ("psnr", "ssim", "lpips-alex"), "RGB", 2),
    )
}  # fmt: skip


def find_protocol(name: str) -> Protocol:
    """Raises UserError unless `name` is one of `PROTOCOLS`."""
    if name not in PROTOCOLS:
        raise UserError(f"`protocol` {name} is not one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]
