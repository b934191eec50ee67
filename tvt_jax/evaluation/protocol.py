"""The figures that a restored image gets, by one protocol for all reports."""

import math
import sys
from collections.abc import Sequence

import numpy as np

from tvt_jax.errors import UserError
from tvt_jax.metrics.lpips import lpips
from tvt_jax.metrics.luma import luma
from tvt_jax.metrics.psnr import psnr
from tvt_jax.metrics.ssim import ssim
from tvt_jax.models.networks import Network
from tvt_jax.weights.lpips import load_lpips

BORDER = 4  # px
MIN_SIDE = 32  # px; AlexNet's last features of smaller images are empty
# Title and decimals in tables, by the name of the metric.
METRICS = {
    "psnr": ("PSNR-Y", 2),
    "ssim": ("SSIM-Y", 4),
    "lpips-vgg": ("LPIPS-VGG", 4),
    "lpips-alex": ("LPIPS-Alex", 4),
}
_LPIPS_NETS = {"lpips-vgg": "vgg16", "lpips-alex": "alexnet"}
PROTOCOL = {
    "psnr, ssim": f"Y of BT.601 (16 to 235, not rounded), {BORDER} px cut on each side; SSIM with "
    "Gaussian windows of 11x11 px, sigma 1.5, inside of the image; data range 255",
    "lpips-vgg, lpips-alex": "version 0.1 of the weights, whole 8-bit RGB image",
    "mean": "over the images",
}


def luma_inside(image: np.ndarray) -> np.ndarray:
    """Luma of [H, W, 3] without the border that does not count."""
    return luma(image[BORDER:-BORDER, BORDER:-BORDER])


class Quality:
    """Measures images against their references.

    Attributes:
      notes: why a metric stays empty.
    """

    def __init__(self, metrics: Sequence[str] = tuple(METRICS), required: bool = False):
        """Loads what the metrics need.

        Args:
          metrics: names, of `METRICS`.
          required: whether missing weights are an error; otherwise LPIPS stays empty, with a note.

        Raises:
          UserError: a metric is unknown, or `required` weights are not there.
        """
        unknown = [name for name in metrics if name not in METRICS]
        if unknown or not metrics:
            raise UserError(
                f"`metrics`: {', '.join(unknown) or 'none'} is unknown; choose from "
                f"{', '.join(METRICS)}."
            )
        self.metrics = tuple(metrics)
        self.notes: list[str] = []
        self._nets: dict[str, Network] = {}
        for name in metrics:
            if name not in _LPIPS_NETS:
                continue
            try:
                self._nets[name] = load_lpips(_LPIPS_NETS[name])
            except UserError as error:
                if required:
                    raise
                self.notes.append(f"no {name}: {error}")

    def print_notes(self) -> None:
        """Prints the notes on stderr."""
        for note in self.notes:
            print(f"note: {note}", file=sys.stderr)

    def measure(self, image: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
        """All metrics of one image.

        Args:
          image, reference: [H, W, 3] uint8 of one shape, at least 32 px a side.

        Returns: value by metric; None where it is infinite (PSNR of equal images) or its weights
          are missing.
        Raises:
          UserError: memory does not suffice.
        """
        y = luma_inside(image), luma_inside(reference)
        values = {}
        for name in self.metrics:
            if name == "psnr":
                values[name] = psnr(*y)
            elif name == "ssim":
                values[name] = ssim(*y)
            elif name in self._nets:
                net = self._nets[name]
                values[name] = float(lpips(net, image[None], reference[None])[0])
            else:
                values[name] = math.nan
        return {name: value if math.isfinite(value) else None for name, value in values.items()}
