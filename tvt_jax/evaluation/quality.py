"""The figures that a restored picture gets, by one protocol for all reports."""

import importlib.metadata
import math
import sys
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from tvt_jax.errors import UserError
from tvt_jax.metrics.image_quality import cut_border, lpips, luma, psnr, ssim
from tvt_jax.models.networks import Network
from tvt_jax.weights.lpips import load_lpips

BORDER = 4  # px
MIN_SIDE = 32  # px; AlexNet's last features of smaller pictures are empty
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
    "Gaussian windows of 11x11 px, sigma 1.5, inside of the picture; data range 255",
    "lpips-vgg, lpips-alex": "version 0.1 of the weights, whole 8-bit RGB picture",
    "mean": "over the pictures",
}


class Quality:
    """Measures pictures against their references.

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
                f"--metrics {','.join(unknown)}: choose from {', '.join(METRICS)}, separated by "
                "commas."
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
        """All metrics of one picture.

        Args:
          image, reference: [H, W, 3] uint8 of one shape, at least 32 px a side.

        Returns: value by metric; None where it is infinite (PSNR of equal pictures) or its weights
          are missing.
        Raises:
          UserError: memory does not suffice.
        """
        y = [luma(cut_border(x, BORDER)) for x in (image, reference)]
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


def mean_values(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Means of the metrics over pictures; None where a value is missing."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {k: None if None in v else sum(v) / len(v) for k, v in columns.items()}


def table_cell(value: float | None, decimals: int) -> str:
    """A figure in a table; nothing where there is none."""
    return "" if value is None else f"{value:.{decimals}f}"


def versions() -> dict[str, str]:
    """What a report's figures were made with."""
    from tvt_jax import __version__

    packages = ("jax", "flax", "numpy", "opencv-python-headless", "pillow")
    return {
        "tvt_jax": __version__,
        **{name: importlib.metadata.version(name) for name in packages},
        "device": jax.devices()[0].device_kind,
    }
