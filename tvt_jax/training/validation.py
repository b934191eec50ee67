"""What the networks make of photographs that they never train on, measured while they train."""

from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from tvt_jax.config import ValidationConfig
from tvt_jax.data.pictures import BadPicture, decode_picture
from tvt_jax.data.sources import list_pictures, read_file
from tvt_jax.errors import UserError
from tvt_jax.evaluation.metrics import lpips, psnr, ssim
from tvt_jax.parallel import batch_sharding, put_state, replicated
from tvt_jax.training.state import Stage
from tvt_jax.weights.lpips import load_lpips


class Validation:
    """Measures a stage's preview on a folder of photographs.

    Args:
      stage: with its `preview`.
      config: folder, crop, number of pictures, whether to measure LPIPS.
      lpips_folder: of LPIPS's weights; None: the usual place.
      mesh: of the run.

    Raises:
      UserError: the folder is missing or empty, a photograph is unreadable or smaller than the
        crop, or LPIPS's weights are missing.
    """

    def __init__(
        self, stage: Stage, config: ValidationConfig, lpips_folder: Path | None, mesh: Mesh
    ):
        self._mesh, self._pictures = mesh, config.pictures
        self._targets = [
            _middle(picture.path, config.crop)
            for picture in list_pictures(config.folder, "--config.validation.folder")
        ]
        self._lpips = load_lpips("vgg16", lpips_folder) if config.lpips else None
        self._preview = jax.jit(stage.preview, out_shardings=replicated(mesh))

    def __call__(self, params, frozen) -> tuple[dict[str, float], list[np.ndarray]]:
        """Runs the networks on all photographs.

        Args:
          params: trained parameters keyed by network, on the mesh.
          frozen: the rest, likewise.

        Returns: (averages by metric; for each shown photograph the networks' input, output and
          target side by side, [H, 3 W, 3] uint8).
        """
        values, shown = [], []
        # One photograph for each device at a time, so that all batches have one shape.
        size = self._mesh.size
        for first in range(0, len(self._targets), size):
            targets = self._targets[first : first + size]
            padded = np.stack([*targets, *targets[-1:] * (size - len(targets))])
            pixels = padded.astype(np.float32) / 127.5 - 1.0
            batch = {"hr": put_state(pixels, batch_sharding(self._mesh))}
            with jax.set_mesh(self._mesh):
                outputs = jax.device_get(self._preview(params, frozen, batch))
            for output, target in zip(outputs, targets, strict=False):
                restored = np.clip(np.round((output + 1.0) * 127.5), 0, 255).astype(np.uint8)
                values.append(self._measure(restored, target))
                if len(shown) < self._pictures:
                    shown.append(np.concatenate([target, restored, target], axis=1))
        return {name: float(np.mean([v[name] for v in values])) for name in values[0]}, shown

    def _measure(self, image: np.ndarray, target: np.ndarray) -> dict[str, float]:
        values = {"psnr": psnr(image, target), "ssim": ssim(image, target)}
        if self._lpips is not None:
            values["lpips"] = float(lpips(self._lpips, image[None], target[None])[0])
        return values


def _middle(path: str, crop: int) -> np.ndarray:
    """The [crop, crop, 3] uint8 crop from the middle of a photograph."""
    try:
        image = decode_picture(read_file(path), min_side=crop).pixels
    except BadPicture as error:
        raise UserError(
            f"{path} cannot be used with --config.validation.crop={crop}: {error}."
        ) from error
    top, left = ((side - crop) // 2 for side in image.shape[:2])
    return image[top : top + crop, left : left + crop]
