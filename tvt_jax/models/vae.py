"""The VAE family: SD's VAE-D8, the compact VAE-D4 and their variants.

Source: paper section 3.2; diffusers `AutoencoderKL`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from tvt_jax.config import VAEConfig
from tvt_jax.models.attention import dot_product_attention
from tvt_jax.models.layers import (
    Conv2d,
    Downsample2D,
    GroupNorm,
    Identity,
    InitKeys,
    Linear,
    ResnetBlock2D,
    Upsample2D,
    normal,
    passing,
    remat_call,
)

_NORM_EPS = 1e-6


def _nearly_certain(key, shape, dtype):
    """Initial bias of `quant_conv`: a posterior deviation of exp(-3).

    Means start small: the usual deviation of 1 would drown them in noise.
    """
    del key
    return jnp.repeat(jnp.asarray([0.0, -6.0], dtype), shape[0] // 2)


class Attention(nnx.Module):
    """Single-head self-attention over all positions, with its own norm and residual."""

    def __init__(self, channels, groups, **precision):
        self.group_norm = GroupNorm(channels, groups, _NORM_EPS, **precision)
        self.to_q = Linear(channels, channels, **precision)
        self.to_k = Linear(channels, channels, **precision)
        self.to_v = Linear(channels, channels, **precision)
        self.to_out = nnx.List([Linear(channels, channels, **precision), Identity()])

    def __call__(self, x):
        """Maps [B, H, W, C] to [B, H, W, C]."""
        batch, height, width, channels = x.shape
        h = self.group_norm(x).reshape(batch, height * width, 1, channels)  # [B, N, 1 head, C]
        h = dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h))
        return x + self.to_out[0](h).reshape(x.shape)


def _resnets(in_channels, out_channels, num_layers, groups, **precision):
    """ResNet blocks in a row; the first one changes the width."""
    widths = (in_channels,) + (out_channels,) * num_layers
    return nnx.List(
        ResnetBlock2D(width, out_channels, groups=groups, epsilon=_NORM_EPS, **precision)
        for width in widths[:num_layers]
    )


class MidBlock2D(nnx.Module):
    """ResNet block, optional attention, ResNet block; diffusers' `UNetMidBlock2D`."""

    def __init__(self, channels, groups, add_attention, **precision):
        self.resnets = _resnets(channels, channels, 2, groups, **precision)
        self.attentions = nnx.List(
            [Attention(channels, groups, **precision)] if add_attention else []
        )

    def __call__(self, x):
        """Maps [B, H, W, C] to [B, H, W, C]."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class DownEncoderBlock2D(nnx.Module):
    """ResNet blocks, then a stride-2 convolution padded at the right and bottom only."""

    def __init__(self, in_channels, out_channels, num_layers, groups, downsample, **precision):
        self.resnets = _resnets(in_channels, out_channels, num_layers, groups, **precision)
        self.downsamplers = nnx.List(
            [Downsample2D(out_channels, padding=(0, 1), **precision)] if downsample else []
        )

    def __call__(self, x):
        """Maps [B, H, W, in] to (output [B, H/2 or H, W/2 or W, out], features [B, H, W, out])."""
        for resnet in self.resnets:
            x = resnet(x)
        features = x
        for downsampler in self.downsamplers:
            x = downsampler(x)
        return x, features


class UpDecoderBlock2D(nnx.Module):
    """ResNet blocks, then enlargement by 2."""

    def __init__(self, in_channels, out_channels, num_layers, groups, upsample, **precision):
        self.resnets = _resnets(in_channels, out_channels, num_layers, groups, **precision)
        self.upsamplers = nnx.List([Upsample2D(out_channels, **precision)] if upsample else [])

    def __call__(self, x):
        """Maps [B, h, w, in] to [B, 2h or h, 2w or w, out]."""
        for resnet in self.resnets:
            x = resnet(x)
        for upsampler in self.upsamplers:
            x = upsampler(x)
        return x


class Encoder(nnx.Module):
    """Image to the moments of the latent distribution, before `quant_conv`."""

    def __init__(self, config: VAEConfig, *, remat=False, **precision):
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.remat = remat
        self.conv_in = Conv2d(
            config.in_channels, widths[0], 3, padding=(1, 1), kernel_init=passing, **precision
        )
        self.down_blocks = nnx.List(
            DownEncoderBlock2D(
                widths[max(level - 1, 0)],
                width,
                config.layers_per_block,
                groups,
                downsample=level < len(widths) - 1,
                **precision,
            )
            for level, width in enumerate(widths)
        )
        self.mid_block = (
            MidBlock2D(widths[-1], groups, config.mid_block_add_attention, **precision)
            if config.mid_block
            else None
        )
        self.conv_norm_out = GroupNorm(widths[-1], groups, _NORM_EPS, **precision)
        self.conv_out = Conv2d(
            widths[-1], 2 * config.latent_channels, 3, padding=(1, 1), **precision
        )

    def __call__(self, image):
        """Maps [B, H, W, 3] in [-1, 1] to (moments, features of each level, finest first)."""
        x = self.conv_in(image)
        features = []
        for block in self.down_blocks:
            x, level_features = remat_call(self.remat, block, x)
            features.append(level_features)
        if self.mid_block is not None:
            x = remat_call(self.remat, self.mid_block, x)
        return self.conv_out(nnx.silu(self.conv_norm_out(x))), features


class Decoder(nnx.Module):
    """Latent, after `post_quant_conv`, to image."""

    def __init__(self, config: VAEConfig, *, remat=False, **precision):
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.remat = remat
        self.conv_in = Conv2d(
            config.latent_channels, widths[0], 3, padding=(1, 1), kernel_init=passing, **precision
        )
        self.mid_block = (
            MidBlock2D(widths[0], groups, config.mid_block_add_attention, **precision)
            if config.mid_block
            else None
        )
        self.up_blocks = nnx.List(
            UpDecoderBlock2D(
                widths[max(level - 1, 0)],
                width,
                config.layers_per_block + 1,
                groups,
                upsample=level < len(widths) - 1,
                **precision,
            )
            for level, width in enumerate(widths)
        )
        # Ablation S2: each block's input gets the encoder's features of the same resolution. The
        # convolutions start at zero, so a decoder trained without them starts unchanged.
        self.skip_convs = nnx.List(
            Conv2d(width, widths[max(level - 1, 0)], 1, kernel_init=normal(0.0), **precision)
            for level, width in enumerate(widths)
            if config.skip_connections
        )
        self.conv_norm_out = GroupNorm(widths[-1], groups, _NORM_EPS, **precision)
        self.conv_out = Conv2d(widths[-1], config.out_channels, 3, padding=(1, 1), **precision)

    def __call__(self, latent, skips=None):
        """Maps [B, h, w, latent_channels] to an image [B, H, W, 3], not clamped.

        Args:
          skips: features of the encoder, finest first; required by a VAE with skip connections.
        """
        return self.conv_out(self.features(latent, skips))

    def features(self, latent, skips=None):
        """Maps [B, h, w, latent_channels] to the input of `conv_out`, [B, H, W, C]."""
        x = self.conv_in(latent)
        if self.mid_block is not None:
            x = remat_call(self.remat, self.mid_block, x)
        for level, block in enumerate(self.up_blocks):
            if len(self.skip_convs):
                x = x + self.skip_convs[level](skips[-1 - level])
            x = remat_call(self.remat, block, x)
        return nnx.silu(self.conv_norm_out(x))


class AutoencoderKL(nnx.Module):
    """A VAE; latents here are unscaled (multiply by `config.scaling_factor` for the UNet).

    Args:
      config: widths and options of the network.
      dtype: dtype of the computation; norm statistics are float32 in any case.
      param_dtype: dtype of the weights.
      remat: recompute each block's activations in the backward pass.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        config: VAEConfig,
        *,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        remat=False,
        rngs: InitKeys,
    ):
        precision = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.config = config
        self.encoder = Encoder(config, remat=remat, **precision)
        self.decoder = Decoder(config, remat=remat, **precision)
        moments, latent = 2 * config.latent_channels, config.latent_channels
        self.quant_conv = (
            Conv2d(moments, moments, 1, kernel_init=passing, bias_init=_nearly_certain, **precision)
            if config.use_quant_conv
            else None
        )
        self.post_quant_conv = (
            Conv2d(latent, latent, 1, kernel_init=passing, **precision)
            if config.use_post_quant_conv
            else None
        )

    def encode(self, image):
        """Encodes images.

        Args:
          image: [B, H, W, 3] in [-1, 1], H and W multiples of `config.downsampling`.

        Returns: (mean [B, h, w, C] float32, log-variance [B, h, w, C] float32 in [-30, 20],
          features of the encoder's levels for a decoder with skip connections).
        """
        moments, features = self.encoder(image)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0), features

    def decode(self, latent, skips=None):
        """Decodes unscaled latents [B, h, w, C] to images [B, H, W, 3] float32, not clamped.

        Args:
          skips: the features that `encode` returned; only for a VAE with skip connections.
        """
        return self.decoder.conv_out(self.decode_features(latent, skips)).astype(jnp.float32)

    def decode_features(self, latent, skips=None):
        """Decodes as `decode` does, up to the features [B, H, W, C] before the last convolution."""
        if self.post_quant_conv is not None:
            latent = self.post_quant_conv(latent)
        return self.decoder.features(latent, skips)


def sample_posterior(mean, logvar, key):
    """Draws latents from the encoder's distribution, all [B, h, w, C] float32."""
    return mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape, mean.dtype)
