"""The PatchGAN discriminator of VAE training.

Source: taming-transformers `NLayerDiscriminator` (without ActNorm) and its `weights_init`, as
latent diffusion's autoencoder training uses them.
"""

import math

import jax.numpy as jnp
from flax import nnx

from tvt_jax.config import DiscriminatorConfig
from tvt_jax.models.layers import BatchNorm2d, Conv2d, InitKeys, normal, uniform

_KERNEL_SIZE = 4
_MAX_WIDENING = 8
_NORM_EPS = 1e-5


class LeakyReLU(nnx.Module):
    """Multiplies negative values by 0.2."""

    def __call__(self, x):
        """Maps an array to one of its shape."""
        return nnx.leaky_relu(x, negative_slope=0.2)


class NLayerDiscriminator(nnx.Module):
    """Scores overlapping patches of an image as real or generated.

    Batch normalisation uses the batch at hand in every pass, the generator's too, so real and
    generated images belong in separate calls.

    Args:
      config: widths and depth.
      dtype: dtype of the computation; norm statistics are float32 in any case.
      param_dtype: dtype of the weights.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        config: DiscriminatorConfig,
        *,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs: InitKeys,
    ):
        precision = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.config = config

        def conv(inputs, outputs, stride, use_bias):
            # Biases keep PyTorch's default: `weights_init` leaves them alone.
            return Conv2d(
                inputs,
                outputs,
                _KERNEL_SIZE,
                stride=stride,
                padding=(1, 1),
                use_bias=use_bias,
                kernel_init=normal(0.02),
                bias_init=uniform(1 / math.sqrt(inputs * _KERNEL_SIZE**2)),
                **precision,
            )

        width = config.base_channels
        layers = [conv(config.in_channels, width, 2, use_bias=True), LeakyReLU()]
        for level in range(1, config.num_layers + 1):
            inputs, width = width, config.base_channels * min(2**level, _MAX_WIDENING)
            stride = 2 if level < config.num_layers else 1
            layers += [
                conv(inputs, width, stride, use_bias=False),
                BatchNorm2d(width, _NORM_EPS, scale_init=normal(0.02, mean=1.0), **precision),
                LeakyReLU(),
            ]
        layers.append(conv(width, 1, 1, use_bias=True))
        self.main = nnx.List(layers)

    def __call__(self, image):
        """Maps images [B, H, W, 3] in [-1, 1] to logits [B, h, w, 1] float32, real being positive.

        h is 14, 30 and 62 for H = 128, 256 and 512 with the default configuration.
        """
        for layer in self.main:
            image = layer(image)
        return image.astype(jnp.float32)
