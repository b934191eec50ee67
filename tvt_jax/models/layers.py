"""Layers shared by the networks, with PyTorch's conventions where Flax's defaults differ."""

import contextlib
import contextvars
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tvt_jax.models.convolution import conv2d, conv_on_doubled, doubled


class InitKeys:
    """Source of initial weights, passed to networks in place of `nnx.Rngs`.

    `nnx.Rngs` counts draws in a traced variable and compiles a program for each shape, which makes
    building a UNet take a minute; numpy takes a second.

    Args:
      seed: of the weights; None for zeros, where only shapes matter.
    """

    def __init__(self, seed: int | None):
        self._generator = None if seed is None else np.random.default_rng(seed)

    def params(self) -> np.random.Generator | None:
        """The key of this module's initialisers."""
        return self._generator


def torch_uniform(key, shape, dtype):
    """PyTorch's default for convolutions and linear layers: U(-1, 1) / sqrt(fan_in)."""
    return uniform(1 / math.sqrt(math.prod(shape[:-1])))(key, shape, dtype)


def normal(deviation, mean=0.0):
    """Initialiser: normal with the given standard deviation and mean."""

    def init(key, shape, dtype):
        if key is None:
            return jnp.zeros(shape, dtype)
        return jnp.asarray(mean + deviation * key.standard_normal(shape), dtype)

    return init


def uniform(bound):
    """Initialiser: uniform in [-bound, bound]."""

    def init(key, shape, dtype):
        if key is None:
            return jnp.zeros(shape, dtype)
        return jnp.asarray(key.uniform(-bound, bound, shape), dtype)

    return init


def passing(key, shape, dtype):
    """Initialiser of the convolutions between residual branches: nearly norm-preserving.

    The kernel's centre is an orthogonal matrix over the channels; kernels larger than 1x1 add a
    tenth of `torch_uniform`. With PyTorch's default, colours fade over a chain of ten layers, and a
    VAE trained from scratch learns them late.
    Source: delta-orthogonal initialisation, Xiao et al., 2018.
    """
    if key is None:
        return jnp.zeros(shape, dtype)
    *window, fan_in, fan_out = shape
    random = key.standard_normal((max(fan_in, fan_out), min(fan_in, fan_out)))
    rotation, _ = np.linalg.qr(random)
    kernel = np.array(torch_uniform(key, shape, np.float32)) * (0.1 if max(window) > 1 else 0.0)
    kernel[tuple(side // 2 for side in window)] += rotation if fan_in >= fan_out else rotation.T
    return jnp.asarray(kernel, dtype)


class Table(nnx.Param):
    """A parameter that PyTorch stores under the attribute's own name, with the same axes."""


class Linear(nnx.Linear):
    """Linear layer on the last axis, [..., in_features] -> [..., out_features]."""

    def __init__(self, in_features, out_features, *, use_bias=True, dtype, param_dtype, rngs):
        super().__init__(
            in_features,
            out_features,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=torch_uniform,
            rngs=rngs,
        )


class Conv2d(nnx.Conv):
    """Convolution, [B, H, W, in_features] -> [B, H', W', out_features].

    Args:
      padding: pixels added on (top or left, bottom or right). There is no "SAME": with stride 2 it
        pads other sides than PyTorch.
    """

    def __init__(
        self,
        in_features,
        out_features,
        kernel_size,
        *,
        stride=1,
        padding=(0, 0),
        use_bias=True,
        kernel_init=torch_uniform,
        bias_init=jax.nn.initializers.zeros,
        dtype,
        param_dtype,
        rngs,
    ):
        super().__init__(
            in_features,
            out_features,
            (kernel_size, kernel_size),
            strides=(stride, stride),
            padding=(padding, padding),
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=kernel_init,
            bias_init=bias_init,
            rngs=rngs,
        )

    def __call__(self, x):
        """Maps [B, H, W, in_features] to [B, H', W', out_features] in `dtype`."""
        x = x.astype(self.dtype)
        return self._biased(conv2d(x, self.kernel[...], self.strides, self.padding))

    def on_doubled(self, x):
        """Applies a 3x3 layer with padding 1 to x enlarged by 2: [B, h, w, in] -> [B, 2h, 2w, out].

        The enlargement repeats the nearest pixel.
        """
        return self._biased(conv_on_doubled(x.astype(self.dtype), self.kernel[...]))

    def _biased(self, y):
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)[None, None, None]


_statistics = contextvars.ContextVar("group_norm_statistics", default=None)


@contextlib.contextmanager
def group_norm_statistics(function):
    """Inside, every `GroupNorm` that is traced takes its statistics from a function.

    A tile of an image is normalised by this with what holds of the whole image.

    Args:
      function: maps (x [B, ..., C] float32, number of groups) to (x minus its mean, its variance,
        that broadcasts to x).
    """
    token = _statistics.set(function)
    try:
        yield
    finally:
        _statistics.reset(token)


def _own_statistics(x, num_groups):
    positions = tuple(range(1, x.ndim - 1))

    def group_mean(x):
        """[B, ..., C] -> [B, 1..., C], the mean over the positions and channels of a group."""
        mean = x
        for axis in reversed(positions):  # at once, XLA for CPUs takes three times as long
            mean = jnp.mean(mean, axis=axis, keepdims=True)
        grouped = mean.reshape(*mean.shape[:-1], num_groups, -1)
        grouped = jnp.broadcast_to(grouped.mean(-1, keepdims=True), grouped.shape)
        return grouped.reshape(mean.shape)

    # Two readings of x. With one, for sums of squares about a value near the mean, a VAE compiled
    # for a TPU moves more bytes: the compiler joins both readings with what comes before.
    centred = x - group_mean(x)
    return centred, group_mean(jnp.square(centred))


class GroupNorm(nnx.GroupNorm):
    """Group normalisation with float32 statistics, its own or those of `group_norm_statistics`.

    Flax's default variance loses three digits when a group's mean is ten times its deviation, so
    this subtracts the mean first. Sums run over the positions of each channel, then over the
    channels of a group: several times as fast on a CPU for narrow groups.
    """

    def __init__(self, num_channels, num_groups, epsilon, *, dtype, param_dtype, rngs):
        super().__init__(
            num_channels,
            num_groups=num_groups,
            epsilon=epsilon,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x):
        """Maps [B, ..., C] to [B, ..., C] in `dtype`."""
        ones = (1,) * (x.ndim - 1)
        scale, bias = (
            p[...].astype(jnp.float32).reshape(*ones, -1) for p in (self.scale, self.bias)
        )
        statistics = _statistics.get() or _own_statistics
        centred, variance = statistics(x.astype(jnp.float32), self.num_groups)
        scale = jax.lax.rsqrt(variance + self.epsilon) * scale
        return (centred * scale + bias).astype(self.dtype)


def LayerNorm(num_features, epsilon, *, dtype, param_dtype, rngs):  # noqa: N802
    """Layer normalisation with float32 statistics and the two-pass variance."""
    return nnx.LayerNorm(
        num_features,
        epsilon=epsilon,
        use_fast_variance=False,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )


class BatchNorm2d(nnx.Module):
    """Normalises each channel by its mean and variance over the batch at hand, in float32.

    There are no running averages: batch-normalised networks are only used in training.
    Under a sharded batch the statistics are those of the whole batch.
    """

    def __init__(
        self,
        num_features,
        epsilon,
        *,
        scale_init=jax.nn.initializers.ones,
        dtype,
        param_dtype,
        rngs,
    ):
        self.epsilon, self.dtype = epsilon, dtype
        self.scale = nnx.Param(scale_init(rngs.params(), (num_features,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((num_features,), param_dtype))

    def __call__(self, x):
        """Maps [B, H, W, C] to [B, H, W, C]."""
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=(0, 1, 2), keepdims=True)
        variance = jnp.mean(jnp.square(x), axis=(0, 1, 2), keepdims=True)
        scale, bias = (
            p[...].astype(jnp.float32)[None, None, None] for p in (self.scale, self.bias)
        )
        return (x * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(self.dtype)


class Identity(nnx.Module):
    """Takes dropout's place in a list, so that indices agree with PyTorch's."""

    def __call__(self, x):
        """Returns x."""
        return x


class ResnetBlock2D(nnx.Module):
    """Norm, SiLU, convolution, twice, plus the input; optionally shifted by a time embedding.

    Source: diffusers `ResnetBlock2D` (default time scale shift, no dropout).
    """

    def __init__(
        self, in_channels, out_channels, *, groups, epsilon, temb_channels=None, **precision
    ):
        self.norm1 = GroupNorm(in_channels, groups, epsilon, **precision)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=(1, 1), **precision)
        self.time_emb_proj = (
            Linear(temb_channels, out_channels, **precision) if temb_channels else None
        )
        self.norm2 = GroupNorm(out_channels, groups, epsilon, **precision)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=(1, 1), **precision)
        self.conv_shortcut = (
            Conv2d(in_channels, out_channels, 1, kernel_init=passing, **precision)
            if in_channels != out_channels
            else None
        )

    def __call__(self, x, temb=None):
        """Maps x [B, H, W, in] and temb [B, temb_channels] to [B, H, W, out]."""
        h = self.conv1(nnx.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            h = h + self.time_emb_proj(nnx.silu(temb))[:, None, None, :]
        h = self.conv2(nnx.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample2D(nnx.Module):
    """Halves height and width (rounded up with padding (1, 1)) by a stride-2 convolution."""

    def __init__(self, channels, *, padding, **precision):
        self.conv = Conv2d(
            channels, channels, 3, stride=2, padding=padding, kernel_init=passing, **precision
        )

    def __call__(self, x):
        """Maps [B, H, W, C] to [B, H', W', C]."""
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Nearest-neighbour enlargement by 2, then a 3x3 convolution."""

    def __init__(self, channels, *, out_channels=None, **precision):
        self.conv = Conv2d(
            channels, out_channels or channels, 3, padding=(1, 1), kernel_init=passing, **precision
        )

    def __call__(self, x, size=None):
        """Maps [B, h, w, C] to [B, H, W, C].

        Args:
          size: (H, W), each 2n or 2n - 1 for n rows or columns; default 2h, 2w. Cropping the
            doubled image equals PyTorch's nearest resize to an odd size.
        """
        if size is None or tuple(size) == (2 * x.shape[1], 2 * x.shape[2]):
            return self.conv.on_doubled(x)
        return self.conv(doubled(x)[:, : size[0], : size[1]])


def remat_call(enabled, module, *args):
    """Calls a module, recomputing its activations in the backward pass if `enabled`."""
    return jax.checkpoint(lambda m, *a: m(*a))(module, *args) if enabled else module(*args)
