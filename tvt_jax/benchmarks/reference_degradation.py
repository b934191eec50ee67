"""The degradation as PyTorch users run it: BasicSR's operators, driven as in OSEDiff.

It is here to be timed against `tvt_jax.data.degradation`. The package `basicsr` is found but not
imported as a whole, because that needs torchvision, lmdb and more, which the operators do not use.
"""

import importlib.util
import math
import random
import sys
import types
from pathlib import Path
from unittest import mock

import numpy as np

from tvt_jax.config import DegradationConfig, DegradationPass
from tvt_jax.errors import UserError

_KINDS = (
    "iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso",
)  # fmt: skip
_PADDED = 21  # all kernels are filled up with zeros to this size


class ReferenceDegradation:
    """BasicSR's operators and three global random generators, one image at a time."""

    def __init__(self, config: DegradationConfig):
        """Loads the operators.

        Args:
          config: the distributions. The switches for the codec and the oddities have no effect.

        Raises:
          UserError: torch or basicsr is not installed.
        """
        if importlib.util.find_spec("torch") is None:
            raise UserError("the reference needs PyTorch: pip install torch")
        self._config = config
        self._operators = _load_operators()
        self._jpeg = self._operators.DiffJPEG(differentiable=False)

    def __call__(
        self, image: np.ndarray, enlarge: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Degrades an image.

        Args:
          image: [H, W, 3] float32 in [0, 1].
          enlarge: whether to bring the low resolution back to the size of the image.

        Returns: low resolution, [H / scale, W / scale, 3], and the same at the size of the image
          or None; float32 in [0, 1] on 8-bit levels.
        Source: cswry/OSEDiff `dataloaders/realesrgan.py`, `degrade_process`.
        """
        import torch

        # The sinc kernel divides by 0 at its centre before it sets the value there.
        with torch.no_grad(), np.errstate(divide="ignore", invalid="ignore"):
            return self._degrade(image, enlarge)

    def _degrade(self, image: np.ndarray, enlarge: bool):
        import torch

        config, operators = self._config, self._operators
        height, width = image.shape[:2]
        low = (height // config.scale, width // config.scale)
        kernels = [torch.FloatTensor(self._kernel(p)) for p in (config.first, config.second)]
        final = torch.FloatTensor(self._final_kernel())
        x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]

        x = operators.filter2D(x, kernels[0])
        x = self._resize(x, scale_factor=self._factor(config.first))
        x = self._compress(self._noise(x, config.first), config.first)

        if np.random.uniform() < config.second.blur_prob:
            x = operators.filter2D(x, kernels[1])
        factor = self._factor(config.second)
        size = tuple(int(side / config.scale * factor) for side in (height, width))
        x = self._noise(self._resize(x, size=size), config.second)
        if np.random.uniform() < 0.5:
            x = operators.filter2D(self._resize(x, size=low), final)
            x = self._compress(x, config.second)
        else:
            x = self._compress(x, config.second)
            x = operators.filter2D(self._resize(x, size=low), final)
        conditioning = self._on_levels(self._resize(x, size=(height, width))) if enlarge else None
        return self._on_levels(x), conditioning

    def _kernel(self, settings: DegradationPass) -> np.ndarray:
        size = random.choice(self._config.kernel_sizes)
        if np.random.uniform() < settings.sinc_prob:
            cutoff = np.random.uniform(np.pi / (3 if size < 13 else 5), np.pi)
            return self._operators.circular_lowpass_kernel(cutoff, size, pad_to=_PADDED)
        kernel = self._operators.random_mixed_kernels(
            _KINDS, settings.kernel_prob, size, settings.blur_sigma, settings.blur_sigma,
            [-math.pi, math.pi], settings.betag_range, settings.betap_range, noise_range=None,
        )  # fmt: skip
        return np.pad(kernel, (_PADDED - size) // 2)

    def _final_kernel(self) -> np.ndarray:
        if np.random.uniform() < self._config.final_sinc_prob:
            size = random.choice(self._config.kernel_sizes)
            cutoff = np.random.uniform(np.pi / 3, np.pi)
            return self._operators.circular_lowpass_kernel(cutoff, size, pad_to=_PADDED)
        impulse = np.zeros((_PADDED, _PADDED))
        impulse[_PADDED // 2, _PADDED // 2] = 1
        return impulse

    def _factor(self, settings: DegradationPass) -> float:
        direction = random.choices(["up", "down", "keep"], settings.resize_prob)[0]
        if direction == "up":
            return np.random.uniform(1, settings.resize_range[1])
        return np.random.uniform(settings.resize_range[0], 1) if direction == "down" else 1.0

    def _resize(self, x, **target):
        from torch.nn import functional

        mode = random.choice(["area", "bilinear", "bicubic"])
        return functional.interpolate(x, mode=mode, **target)

    def _noise(self, x, settings: DegradationPass):
        if np.random.uniform() < settings.gaussian_noise_prob:
            return self._operators.random_add_gaussian_noise_pt(
                x, settings.noise_range, settings.gray_noise_prob, clip=True, rounds=False
            )
        return self._operators.random_add_poisson_noise_pt(
            x, settings.poisson_scale_range, settings.gray_noise_prob, clip=True, rounds=False
        )

    def _compress(self, x, settings: DegradationPass):
        import torch

        quality = x.new_zeros(x.size(0)).uniform_(*settings.jpeg_range)
        return self._jpeg(torch.clamp(x, 0, 1), quality=quality)

    @staticmethod
    def _on_levels(x) -> np.ndarray:
        import torch

        levels = torch.clamp((x * 255.0).round(), 0, 255) / 255
        return levels[0].permute(1, 2, 0).numpy()


def _load_operators() -> types.SimpleNamespace:
    """The three files of basicsr that hold the operators, as one namespace."""
    package = importlib.util.find_spec("basicsr")
    if package is None or not package.submodule_search_locations:
        raise UserError("the reference is BasicSR: pip install --no-deps basicsr==1.4.2")
    folder = Path(package.submodule_search_locations[0])
    # torchvision has moved the only function that is used of it.
    functional = types.ModuleType("torchvision.transforms.functional_tensor")
    functional.rgb_to_grayscale = _rgb_to_grayscale
    stubs = {
        "torchvision": types.ModuleType("torchvision"),
        "torchvision.transforms": types.ModuleType("torchvision.transforms"),
        functional.__name__: functional,
    }
    found: dict = {}
    # The files switch numpy's warnings off, for good.
    with mock.patch.dict(sys.modules, stubs), np.errstate():
        for file in ("data/degradations.py", "utils/diffjpeg.py", "utils/img_process_util.py"):
            spec = importlib.util.spec_from_file_location(
                f"_basicsr_{Path(file).stem}", folder / file
            )
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            found.update(vars(module))
    return types.SimpleNamespace(**found)


def _rgb_to_grayscale(image, num_output_channels: int = 1):
    red, green, blue = image.unbind(dim=-3)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(dim=-3)
