"""The denoising UNet family: SD 2.1's, the compute-efficient CE-UNet, the pruned one.

Source: paper section 3.3; diffusers `UNet2DConditionModel`.
"""

import math

import jax.numpy as jnp
from flax import nnx

from tvt_jax.config import UNetConfig
from tvt_jax.models.attention import dot_product_attention
from tvt_jax.models.layers import (
    Conv2d,
    Downsample2D,
    GroupNorm,
    Identity,
    InitKeys,
    LayerNorm,
    Linear,
    ResnetBlock2D,
    Upsample2D,
    remat_call,
)

_TRANSFORMER_NORM_EPS = 1e-6


def timestep_embedding(timesteps, width, flip_sin_to_cos, freq_shift):
    """Sinusoidal embedding of timesteps [B] as float32 [B, width] (width even)."""
    half = width // 2
    exponent = -math.log(10000) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    angle = timesteps.astype(jnp.float32)[:, None] * jnp.exp(exponent)[None, :]
    parts = [jnp.sin(angle), jnp.cos(angle)]
    return jnp.concatenate(parts[::-1] if flip_sin_to_cos else parts, axis=-1)


class TimestepEmbedding(nnx.Module):
    """Two linear layers with SiLU between."""

    def __init__(self, in_channels, channels, **precision):
        self.linear_1 = Linear(in_channels, channels, **precision)
        self.linear_2 = Linear(channels, channels, **precision)

    def __call__(self, x):
        """Maps [B, in_channels] to [B, channels]."""
        return self.linear_2(nnx.silu(self.linear_1(x)))


class CrossAttention(nnx.Module):
    """Multi-head attention; keys and values from `context`, or from x itself without one."""

    def __init__(self, channels, context_channels, heads, **precision):
        self.heads = heads
        self.to_q = Linear(channels, channels, use_bias=False, **precision)
        self.to_k = Linear(context_channels, channels, use_bias=False, **precision)
        self.to_v = Linear(context_channels, channels, use_bias=False, **precision)
        self.to_out = nnx.List([Linear(channels, channels, **precision), Identity()])

    def __call__(self, x, context=None):
        """Maps x [B, N, C] and context [B, M, D] to [B, N, C]."""
        context = x if context is None else context

        def split_heads(t):
            return t.reshape(*t.shape[:2], self.heads, -1)  # [B, N, heads, C / heads]

        q, k, v = (split_heads(t) for t in (self.to_q(x), self.to_k(context), self.to_v(context)))
        return self.to_out[0](dot_product_attention(q, k, v).reshape(x.shape))


class GEGLU(nnx.Module):
    """Linear layer to twice the width; one half gates the other through the exact GELU."""

    def __init__(self, in_channels, channels, **precision):
        self.proj = Linear(in_channels, 2 * channels, **precision)

    def __call__(self, x):
        """Maps [..., in_channels] to [..., channels]."""
        x, gate = jnp.split(self.proj(x), 2, axis=-1)
        return x * nnx.gelu(gate, approximate=False)


class FeedForward(nnx.Module):
    """GEGLU to four times the width, and back."""

    def __init__(self, channels, **precision):
        hidden = 4 * channels
        self.net = nnx.List(
            [
                GEGLU(channels, hidden, **precision),
                Identity(),
                Linear(hidden, channels, **precision),
            ]
        )

    def __call__(self, x):
        """Maps [..., channels] to [..., channels]."""
        return self.net[2](self.net[0](x))


class BasicTransformerBlock(nnx.Module):
    """Self-attention, cross-attention and feed-forward, each with its norm and residual."""

    def __init__(self, channels, context_channels, heads, **precision):
        self.norm1 = LayerNorm(channels, 1e-5, **precision)
        self.attn1 = CrossAttention(channels, channels, heads, **precision)
        self.norm2 = LayerNorm(channels, 1e-5, **precision)
        self.attn2 = CrossAttention(channels, context_channels, heads, **precision)
        self.norm3 = LayerNorm(channels, 1e-5, **precision)
        self.ff = FeedForward(channels, **precision)

    def __call__(self, x, context):
        """Maps x [B, N, C] and context [B, M, D] to [B, N, C]."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer2DModel(nnx.Module):
    """A transformer block over all positions, between linear projections, with a residual."""

    def __init__(self, channels, context_channels, heads, groups, **precision):
        self.norm = GroupNorm(channels, groups, _TRANSFORMER_NORM_EPS, **precision)
        self.proj_in = Linear(channels, channels, **precision)
        self.transformer_blocks = nnx.List(
            [BasicTransformerBlock(channels, context_channels, heads, **precision)]
        )
        self.proj_out = Linear(channels, channels, **precision)

    def __call__(self, x, context):
        """Maps x [B, H, W, C] and context [B, M, D] to [B, H, W, C]."""
        h = self.proj_in(self.norm(x).reshape(x.shape[0], -1, x.shape[3]))  # [B, H * W, C]
        for block in self.transformer_blocks:
            h = block(h, context)
        return x + self.proj_out(h).reshape(x.shape)


class UNetBlock2D(nnx.Module):
    """One level on the way down or up: ResNet blocks, each followed by a transformer if any.

    diffusers has a class for each kind (`CrossAttnDownBlock2D`, `DownBlock2D`, `UpBlock2D`,
    `CrossAttnUpBlock2D`); they differ only in which of these lists are empty.
    """

    def __init__(
        self, resnet_channels, channels, config, heads, *, attention, resample, remat, **precision
    ):
        self.remat = remat
        self.resnets = nnx.List(
            ResnetBlock2D(
                width,
                channels,
                groups=config.norm_num_groups,
                epsilon=config.norm_eps,
                temb_channels=4 * config.block_out_channels[0],
                **precision,
            )
            for width in resnet_channels
        )
        self.attentions = nnx.List(
            Transformer2DModel(
                channels, config.cross_attention_dim, heads, config.norm_num_groups, **precision
            )
            for _ in resnet_channels
            if attention
        )
        if resample == "down":
            self.downsamplers = nnx.List([Downsample2D(channels, padding=(1, 1), **precision)])
        elif resample == "up":
            self.upsamplers = nnx.List([Upsample2D(channels, **precision)])

    def layer(self, index, x, temb, context):
        """Applies the ResNet block number `index` and its transformer."""
        x = remat_call(self.remat, self.resnets[index], x, temb)
        if len(self.attentions):
            x = remat_call(self.remat, self.attentions[index], x, context)
        return x


class UNetMidBlock2DCrossAttn(nnx.Module):
    """ResNet block, transformer, ResNet block at the lowest resolution."""

    def __init__(self, config: UNetConfig, *, remat, **precision):
        channels, groups = config.block_out_channels[-1], config.norm_num_groups
        self.remat = remat

        def block():
            return ResnetBlock2D(
                channels,
                channels,
                groups=groups,
                epsilon=config.norm_eps,
                temb_channels=4 * config.block_out_channels[0],
                **precision,
            )

        self.resnets = nnx.List([block(), block()])
        self.attentions = nnx.List(
            [
                Transformer2DModel(
                    channels, config.cross_attention_dim, config.num_heads[-1], groups, **precision
                )
            ]
        )

    def __call__(self, x, temb, context):
        """Maps x [B, H, W, C] to [B, H, W, C]."""
        x = remat_call(self.remat, self.resnets[0], x, temb)
        x = remat_call(self.remat, self.attentions[0], x, context)
        return remat_call(self.remat, self.resnets[1], x, temb)


class UNet2DConditionModel(nnx.Module):
    """Predicts the noise in a latent, given the timestep and a text embedding.

    Args:
      config: widths, blocks and options of the network.
      dtype: dtype of the computation; norm statistics, softmax and the output layers are float32
        in any case.
      param_dtype: dtype of the weights.
      remat: recompute each block's activations in the backward pass.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        config: UNetConfig,
        *,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        remat=False,
        rngs: InitKeys,
    ):
        precision = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        widths, heads = config.block_out_channels, config.num_heads
        levels, layers = len(widths), config.layers_per_block
        self.config = config
        self.dtype = dtype
        self.conv_in = Conv2d(config.in_channels, widths[0], 3, padding=(1, 1), **precision)
        self.time_embedding = TimestepEmbedding(widths[0], 4 * widths[0], **precision)
        self.down_blocks = nnx.List(
            UNetBlock2D(
                (widths[max(i - 1, 0)],) + (widths[i],) * (layers - 1),
                widths[i],
                config,
                heads[i],
                attention=config.down_block_types[i] == "CrossAttnDownBlock2D",
                resample="down" if i < levels - 1 else None,
                remat=remat,
                **precision,
            )
            for i in range(levels)
        )
        self.mid_block = UNetMidBlock2DCrossAttn(config, remat=remat, **precision)
        self.up_blocks = nnx.List()
        for i in range(levels):
            width, previous, below = (
                widths[-1 - i], widths[-max(i, 1)], widths[-min(i + 2, levels)],
            )  # fmt: skip
            # Each ResNet block also takes one skip connection from the way down.
            inputs = (previous,) + (width,) * layers
            skips = (width,) * layers + (below,)
            self.up_blocks.append(
                UNetBlock2D(
                    tuple(a + b for a, b in zip(inputs, skips, strict=True)),
                    width,
                    config,
                    heads[-1 - i],
                    attention=config.up_block_types[i] == "CrossAttnUpBlock2D",
                    resample="up" if i < levels - 1 else None,
                    remat=remat,
                    **precision,
                )
            )
        # In bfloat16 these two layers round the predicted noise to 8 bits; guidance would then
        # amplify the error of the teacher's prediction. They are a thousandth of the operations.
        exact = dict(dtype=jnp.float32, param_dtype=param_dtype, rngs=rngs)
        self.conv_norm_out = GroupNorm(widths[0], config.norm_num_groups, config.norm_eps, **exact)
        self.conv_out = Conv2d(widths[0], config.out_channels, 3, padding=(1, 1), **exact)

    def __call__(self, latent, timesteps, context):
        """Predicts noise.

        Args:
          latent: [B, h, w, in_channels], scaled; any h and w.
          timesteps: [B] integers in [0, 1000).
          context: [B, tokens, cross_attention_dim] text embedding.

        Returns: [B, h, w, out_channels] float32.
        """
        config = self.config
        latent, context = latent.astype(self.dtype), context.astype(self.dtype)
        temb = timestep_embedding(
            timesteps, config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift
        )
        temb = self.time_embedding(temb.astype(self.dtype))

        x = self.conv_in(latent)
        skips = [x]
        for block in self.down_blocks:
            for index in range(len(block.resnets)):
                x = block.layer(index, x, temb, context)
                skips.append(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0](x)
                skips.append(x)
        x = self.mid_block(x, temb, context)
        for block in self.up_blocks:
            for index in range(len(block.resnets)):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = block.layer(index, x, temb, context)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0](x, size=skips[-1].shape[1:3])
        return self.conv_out(nnx.silu(self.conv_norm_out(x)))
