"""More latent channels than Stable Diffusion has (ablation S3: eight instead of four).

The latents of such a VAE are aligned with VAE-D8's by interpolation along the channels (paper,
section 4.3). A UNet that reads them through the inverse, and whose prediction is interpolated
likewise, initially computes what Stable Diffusion's computes.
"""

import dataclasses

import numpy as np

from tvt_jax.config import UNetConfig
from tvt_jax.weights.tensor_files import Tensors


def interpolation_matrix(channels: int, more: int) -> np.ndarray:
    """Linear interpolation from `channels` to `more` evenly spread channels, float32 [more, C]."""
    positions = (np.arange(more) + 0.5) * channels / more - 0.5
    return np.stack(
        [np.interp(positions, np.arange(channels), row) for row in np.eye(channels)], axis=1
    ).astype(np.float32)


def inverse_interpolation(channels: int, more: int) -> np.ndarray:
    """The matrix that undoes `interpolation_matrix`, float32 [channels, more]."""
    return np.linalg.pinv(interpolation_matrix(channels, more)).astype(np.float32)


def with_latent_channels(
    config: UNetConfig, tensors: Tensors, channels: int
) -> tuple[UNetConfig, Tensors]:
    """Changes the number of latent channels of a UNet, in its first and its last convolution.

    Args:
      config, tensors: a UNet.
      channels: of the new latents, more than now.

    Returns: (configuration, state dict) of a UNet that maps interpolated latents to interpolated
      predictions.
    """
    old = config.in_channels
    spread, gather = interpolation_matrix(old, channels), inverse_interpolation(old, channels)

    def read(name: str) -> np.ndarray:
        value = tensors[name]
        if name == "conv_in.weight":
            return np.einsum("oikl,ij->ojkl", value, gather)
        if name in ("conv_out.weight", "conv_out.bias"):
            return np.tensordot(spread, value, 1)
        return value

    shapes = {name: tensors.shape(name) for name in tensors}
    width, _, *kernel = shapes["conv_in.weight"]
    shapes["conv_in.weight"] = (width, channels, *kernel)
    shapes["conv_out.weight"] = (channels, *shapes["conv_out.weight"][1:])
    shapes["conv_out.bias"] = (channels,)
    new = dataclasses.replace(config, in_channels=channels, out_channels=channels)
    return new, Tensors(f"{tensors.source} with {channels} latent channels", shapes, read)
