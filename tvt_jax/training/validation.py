"""Validation: metrics of the networks' output on held-out photographs, during training."""

import jax
import numpy as np
from jax.sharding import Mesh

from tvt_jax.compiler import compiler_options
from tvt_jax.config import TrainConfig
from tvt_jax.data.samples import Collate, heldout_samples
from tvt_jax.errors import UserError
from tvt_jax.metrics.lpips import lpips
from tvt_jax.metrics.psnr import psnr
from tvt_jax.metrics.ssim import ssim
from tvt_jax.parallel import batch_sharding, on_every_device, put_state
from tvt_jax.training.stage import Stage
from tvt_jax.weights.lpips import load_lpips


class Validation:
    """Measures a stage's output on a folder of photographs.

    Args:
      stage: with its `preview`.
      config: of the run: the photographs, how they are degraded, whether LPIPS is measured.
      mesh: of the run.

    Raises:
      UserError: the folder is missing or empty, a photograph is unreadable or smaller than the
        crop, LPIPS's weights are missing, or a stage that restores gets no low resolution.
    """

    def __init__(self, stage: Stage, config: TrainConfig, mesh: Mesh):
        self._mesh, self._stage = mesh, stage
        self._num_shown = config.validation.images
        self._samples = heldout_samples(config.validation, config.data)
        self._collate = Collate(stage.tokenizer)
        if "lr" in stage.inputs and "lr" not in self._samples[0]:
            raise UserError(
                "validation needs low resolution: give `config.validation.lr`, the folder of the "
                "real LR images of `config.validation.folder`."
            )
        self._lpips = load_lpips("vgg16", config.lpips_folder) if config.validation.lpips else None
        self._preview = jax.jit(
            stage.preview, out_shardings=on_every_device(mesh), compiler_options=compiler_options()
        )

    def __call__(self, params, frozen) -> tuple[dict[str, float], list[np.ndarray]]:
        """Runs the networks on all photographs.

        Args:
          params: trained parameters keyed by network, on the mesh.
          frozen: the rest, likewise.

        Returns: (averages by metric, and with low resolution those of the enlarged input under
          "input_..."; for each shown photograph the networks' input, output and target side by
          side, [H, 3 W, 3] uint8).
        """
        values, shown = [], []
        preview_of = self._stage.preview_of
        # One photograph per device at a time: a single batch shape, a single compilation.
        size = self._mesh.size
        for first in range(0, len(self._samples), size):
            samples = self._samples[first : first + size]
            padded = self._collate([*samples, *samples[-1:] * (size - len(samples))])
            batch = {
                name: put_state(padded[name], batch_sharding(self._mesh))
                for name in self._stage.inputs
            }
            with jax.set_mesh(self._mesh):
                outputs = jax.device_get(self._preview(params, frozen, batch))
            for output, sample in zip(outputs, samples, strict=False):
                restored = np.clip(np.round((output + 1.0) * 127.5), 0, 255).astype(np.uint8)
                measured = self._measure(restored, sample["hr"])
                given = sample[preview_of]
                if preview_of != "hr":
                    of_input = self._measure(given, sample["hr"])
                    measured |= {f"input_{name}": value for name, value in of_input.items()}
                values.append(measured)
                if len(shown) < self._num_shown:
                    shown.append(np.concatenate([given, restored, sample["hr"]], axis=1))
        return {name: float(np.mean([v[name] for v in values])) for name in values[0]}, shown

    def _measure(self, image: np.ndarray, target: np.ndarray) -> dict[str, float]:
        values = {"psnr": psnr(image, target), "ssim": ssim(image, target)}
        if self._lpips is not None:
            values["lpips"] = float(lpips(self._lpips, image[None], target[None])[0])
        return values
