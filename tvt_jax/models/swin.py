"""Swin Transformer: the image encoder of the tagger.

Attention works inside square windows; every second block shifts the windows by half their side, so
that neighbouring windows exchange information. Images stay [B, H, W, C] between blocks.
Source: Liu et al. 2021; recognize-anything `ram/models/swin_transformer.py` (no absolute position
embedding, norm after the patches, biased queries, keys and values).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tvt_jax.config import TaggerConfig
from tvt_jax.models.layers import Conv2d, InitKeys, LayerNorm, Linear, Table, normal

NORM_EPSILON = 1e-5  # PyTorch's default, which every norm of the encoder has
# Added to the scores of pairs that are not neighbours in the image. Finite, as in the original.
_MASKED_SCORE = -100.0


def relative_position_index(window: int) -> np.ndarray:
    """Row of the bias table for each pair of tokens of a window.

    Args:
      window: side of the window; its tokens are counted row by row.

    Returns: [N, N] int, N = window^2; first the query, then the key.
    """
    y, x = (axis.reshape(-1) for axis in np.mgrid[:window, :window])
    rows, columns = y[:, None] - y[None, :], x[:, None] - x[None, :]
    return (rows + window - 1) * (2 * window - 1) + columns + window - 1


def shifted_regions(resolution: int, window: int, shift: int) -> np.ndarray:
    """Region of the image that each token of the shifted windows comes from.

    The shift is cyclic, so the last windows hold tokens of opposite borders. Tokens attend to each
    other only within a region.

    Returns: [windows, N] int, windows row by row, N = window^2.
    """
    region = np.zeros(resolution, int)
    region[-window:] = 1
    region[-shift:] = 2
    regions = 3 * region[:, None] + region[None, :]
    return np.asarray(split_windows(regions[None, :, :, None], window))[..., 0]


def split_windows(x, window: int):
    """[B, H, W, C] -> [B * windows, window^2, C]; the windows of an image are contiguous."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, window**2, channels)


def join_windows(x, window: int, height: int, width: int):
    """[B * windows, window^2, C] -> [B, H, W, C]: the inverse of `split_windows`."""
    x = x.reshape(-1, height // window, width // window, window, window, x.shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, x.shape[-1])


class WindowAttention(nnx.Module):
    """Self-attention in windows, with a learned bias for each relative position."""

    def __init__(self, dim: int, heads: int, window: int, **precision):
        self.heads, self.window = heads, window
        self.relative_position_bias_table = Table(
            normal(0.02)(
                precision["rngs"].params(), ((2 * window - 1) ** 2, heads), precision["param_dtype"]
            )
        )
        self.qkv = Linear(dim, 3 * dim, **precision)
        self.proj = Linear(dim, dim, **precision)

    def __call__(self, x, regions=None):
        """Maps [B * windows, N, C] to the same shape.

        Args:
          regions: [windows, N] of `shifted_regions`, or None where nothing is masked.
        """
        batch, tokens, channels = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1)
        query, key, value = (qkv[:, :, i] for i in range(3))  # [B * windows, N, heads, D]
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        scores = scores * query.shape[-1] ** -0.5 + self.position_bias()[None]
        if regions is not None:
            scores = self._mask(scores, jnp.asarray(regions))
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        out = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return self.proj(out.reshape(batch, tokens, channels))

    def _mask(self, scores, regions):
        """Adds the mask to scores [B * windows, heads, N, N]."""
        differ = regions[:, :, None] != regions[:, None, :]  # [windows, N, N]
        mask = jnp.where(differ, _MASKED_SCORE, 0.0)[None, :, None]
        return (scores.reshape(-1, len(regions), *scores.shape[1:]) + mask).reshape(scores.shape)

    def position_bias(self):
        """Bias [heads, N, N] float32 of the scores."""
        bias = self.relative_position_bias_table[...][relative_position_index(self.window)]
        return bias.transpose(2, 0, 1).astype(jnp.float32)


class MLP(nnx.Module):
    """Two linear layers with the exact GELU between."""

    def __init__(self, dim: int, hidden: int, **precision):
        self.fc1 = Linear(dim, hidden, **precision)
        self.fc2 = Linear(hidden, dim, **precision)

    def __call__(self, x):
        """Maps [..., C] to [..., C]."""
        return self.fc2(nnx.gelu(self.fc1(x), approximate=False))


class SwinTransformerBlock(nnx.Module):
    """Window attention and MLP, each after its norm and with a residual.

    Args:
      resolution: side of the feature map.
      shifted: shift the windows by half their side; a map of a single window never shifts.
    """

    def __init__(
        self, dim: int, heads: int, resolution: int, window: int, shifted: bool, hidden: int,
        **precision,
    ):  # fmt: skip
        self.window = min(window, resolution)
        self.shift = self.window // 2 if shifted and resolution > window else 0
        self.norm1 = LayerNorm(dim, NORM_EPSILON, **precision)
        self.attn = WindowAttention(dim, heads, self.window, **precision)
        self.norm2 = LayerNorm(dim, NORM_EPSILON, **precision)
        self.mlp = MLP(dim, hidden, **precision)

    def __call__(self, x):
        """Maps [B, H, W, C] to the same shape."""
        return (x := x + self._attend(self.norm1(x))) + self.mlp(self.norm2(x))

    def _attend(self, x):
        height, width = x.shape[1:3]
        regions = None
        if self.shift:
            x = jnp.roll(x, (-self.shift, -self.shift), axis=(1, 2))
            regions = shifted_regions(height, self.window, self.shift)
        x = self.attn(split_windows(x, self.window), regions)
        x = join_windows(x, self.window, height, width)
        return jnp.roll(x, (self.shift, self.shift), axis=(1, 2)) if self.shift else x


class PatchMerging(nnx.Module):
    """Halves the resolution: four neighbours become one pixel of twice the channels."""

    def __init__(self, dim: int, **precision):
        self.norm = LayerNorm(4 * dim, NORM_EPSILON, **precision)
        self.reduction = Linear(4 * dim, 2 * dim, use_bias=False, **precision)

    def __call__(self, x):
        """Maps [B, H, W, C] to [B, H/2, W/2, 2C]."""
        # The order of the original: the row varies first.
        neighbours = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(jnp.concatenate(neighbours, axis=-1)))


class PatchEmbed(nnx.Module):
    """Cuts the image into patches and embeds each."""

    def __init__(self, patch: int, dim: int, **precision):
        self.proj = Conv2d(3, dim, patch, stride=patch, **precision)
        self.norm = LayerNorm(dim, NORM_EPSILON, **precision)

    def __call__(self, images):
        """Maps [B, H, W, 3] to [B, H/patch, W/patch, C]."""
        return self.norm(self.proj(images))


class BasicLayer(nnx.Module):
    """One resolution: blocks, every second of them shifted, then patch merging (not the last)."""

    def __init__(self, config: TaggerConfig, stage: int, **precision):
        dim, resolution = config.stage_widths[stage], config.stage_resolutions[stage]
        self.blocks = nnx.List(
            SwinTransformerBlock(
                dim,
                config.num_heads[stage],
                resolution,
                config.window_size,
                shifted=index % 2 == 1,
                hidden=int(dim * config.mlp_ratio),
                **precision,
            )
            for index in range(config.depths[stage])
        )
        last = stage == len(config.depths) - 1
        self.downsample = None if last else PatchMerging(dim, **precision)

    def __call__(self, x):
        """Maps [B, H, W, C] to [B, H/2, W/2, 2C], in the last layer to the same shape."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class SwinTransformer(nnx.Module):
    """The encoder.

    Args:
      config: of the tagger.
      dtype: dtype of the computation.
      param_dtype: dtype of the weights.
      rngs: source of the initial weights.
    """

    def __init__(self, config: TaggerConfig, *, dtype, param_dtype, rngs: InitKeys):
        precision = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.patch_embed = PatchEmbed(config.patch_size, config.embed_dim, **precision)
        self.layers = nnx.List(
            BasicLayer(config, stage, **precision) for stage in range(len(config.depths))
        )
        self.norm = LayerNorm(config.stage_widths[-1], NORM_EPSILON, **precision)

    def __call__(self, images):
        """Encodes images.

        Args:
          images: [B, S, S, 3], normalised, S = `image_size`.

        Returns: [B, 1 + N, C]: the mean of the N tokens of the last resolution, then the tokens.
        """
        x = self.patch_embed(images)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x).reshape(x.shape[0], -1, x.shape[-1])
        return jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
