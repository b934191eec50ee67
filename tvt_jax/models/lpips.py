"""LPIPS, the learned perceptual distance of two images.

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", and
their package `lpips`, version 0.1 of the weights. Names: `features` is torchvision's trunk, `lins`
the package's linear layers.
"""

import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx

from tvt_jax.config import LPIPSConfig
from tvt_jax.models.layers import Conv2d, Identity, InitKeys, remat_call
from tvt_jax.models.target import target_device

# Mean and deviation of ImageNet's colours for images in [-1, 1]; [1, 1, 1, 3].
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)[None, None, None]
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)[None, None, None]
_NORM_EPS = 1e-10


class ReLU(nnx.Module):
    """Sets negative values to 0."""

    def __call__(self, x):
        """Maps an array to one of its shape."""
        return nnx.relu(x)


class MaxPool2d(nnx.Module):
    """Maximum over square windows, stride 2, without padding."""

    def __init__(self, window):
        self.window = window

    def __call__(self, x):
        """Maps [B, H, W, C] to [B, (H - window) // 2 + 1, (W - window) // 2 + 1, C]."""
        if target_device()[0] != "cpu":
            return nnx.max_pool(x, (self.window, self.window), strides=(2, 2))
        # XLA's gradient of the pooling looks for positions, which takes a CPU long.
        height, width = ((side - self.window) // 2 + 1 for side in x.shape[1:3])
        shifts = [(dy, dx) for dy in range(self.window) for dx in range(self.window)]
        strided = (x[:, dy::2, dx::2][:, :height, :width] for dy, dx in shifts)
        return functools.reduce(jnp.maximum, strided)


class NetLinLayer(nnx.Module):
    """Weights the squared differences of one block's channels; PyTorch has a dropout before it."""

    def __init__(self, channels, **precision):
        self.model = nnx.List([Identity(), Conv2d(channels, 1, 1, use_bias=False, **precision)])

    def __call__(self, difference):
        """Maps [B, C] to [B]."""
        return self.model[1](difference[:, None, None, :])[:, 0, 0, 0]


class LPIPS(nnx.Module):
    """Perceptual distance; without dropout, to be used frozen.

    Attributes:
      features: the trunk's layers.
      blocks: (first, end) of the layers of each block.

    Args:
      config: the trunk, one of `LPIPS_NETS`.
      dtype: dtype of the trunk's computation; everything after it is float32.
      param_dtype: dtype of the weights.
      remat: recompute each block's activations in the backward pass.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        config: LPIPSConfig,
        *,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        remat=False,
        rngs: InitKeys,
    ):
        self.config, self.remat = config, remat
        layers, ends, inputs = [], [], 3
        for level, width in enumerate(config.block_out_channels):
            if config.pool_sizes[level]:
                layers.append(MaxPool2d(config.pool_sizes[level]))
            for _ in range(config.layers_per_block[level]):
                conv = Conv2d(
                    inputs,
                    width,
                    config.kernel_sizes[level],
                    stride=config.strides[level],
                    padding=(config.paddings[level],) * 2,
                    dtype=dtype,
                    param_dtype=param_dtype,
                    rngs=rngs,
                )
                layers += [conv, ReLU()]
                inputs = width
            ends.append(len(layers))
        self.features = nnx.List(layers)
        self.blocks = tuple(zip([0, *ends[:-1]], ends, strict=True))
        self.lins = nnx.List(
            NetLinLayer(width, dtype=jnp.float32, param_dtype=param_dtype, rngs=rngs)
            for width in config.block_out_channels
        )

    def __call__(self, image, reference):
        """Compares images with references.

        The gradient is finite everywhere, also where all features of a position are 0.

        Args:
          image, reference: [B, H, W, 3] in [-1, 1]; at least 16 px a side for VGG16, 31 px for
            AlexNet.

        Returns: [B] float32, 0 for equal images.
        Raises:
          ValueError: the images are too small.
        """
        pairs = zip(self._trunk(image), self._trunk(reference), strict=True)
        distance = 0.0
        for lin, (a, b) in zip(self.lins, pairs, strict=True):
            # The mean over positions comes before the linear layer: equivalent, and no map is kept.
            distance += lin(jnp.mean(jnp.square(_unit(a) - _unit(b)), axis=(1, 2)))
        return distance

    def normalized(self, image):
        """Normalises [B, H, W, 3] in [-1, 1] by ImageNet's mean and deviation; float32."""
        return (image.astype(jnp.float32) - _SHIFT) / _SCALE

    def _trunk(self, image):
        """The last features of each block, [B, h, w, C]."""
        x, features = self.normalized(image), []
        for start, end in self.blocks:
            x = remat_call(self.remat, nnx.Sequential(*self.features[start:end]), x)
            if not x.size:
                height, width = image.shape[1:3]
                raise ValueError(f"images of {width}x{height} px are too small for LPIPS")
            features.append(x)
        return features


def _unit(features):
    """Divides the features of each position by their norm; float32."""
    features = features.astype(jnp.float32)
    square = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    # The square root has no derivative at 0.
    nonzero = square > 0
    norm = jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, square, 1.0)), 0.0)
    return features / (norm + _NORM_EPS)
