"""Convolutions as functions of an image and a kernel, [B, H, W, C] and [k, k, C, O]."""

import jax
import jax.numpy as jnp

from tvt_jax.models.target import target_device
from tvt_jax.models.winograd import winograd


def conv2d(x, kernel, strides=(1, 1), padding=((1, 1), (1, 1))):
    """Convolves [B, H, W, C] with a kernel [k, k, C, O], in the dtype of x.

    Args:
      padding: zeros added on (top, bottom) and (left, right).
    """
    if strides == (1, 1) and padding == ((1, 1), (1, 1)) and _is_wide_on_cpu(x, kernel):
        return _wide_on_cpu(x, kernel.astype(x.dtype))
    return _conv(x, kernel, strides, padding)


def _conv(x, kernel, strides=(1, 1), padding=((1, 1), (1, 1)), **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel.astype(x.dtype), strides, padding, dimension_numbers=numbers, **options
    )


def _is_wide_on_cpu(x, kernel):
    """Whether these are a 3x3 kernel for `_wide_on_cpu` and an image on one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return (
        target_device()[0] == "cpu"
        and (mesh.empty or mesh.size == 1)  # strips would move an image that is split
        and not any(map(jax.export.is_symbolic_dim, x.shape))
        and x.dtype == jnp.float32
        and kernel.shape[:2] == (3, 3)
        and min(kernel.shape[2:]) >= 128
    )


@jax.custom_vjp
def _wide_on_cpu(x, kernel):
    """A 3x3 convolution of many channels, and its gradients, as CPUs compute them fastest."""
    return winograd(x, kernel) if _winograd_pays(x) else _conv(x, kernel)


def _winograd_pays(x):
    # Few pixels do not pay for transforming the kernel.
    batch, height, width, _ = x.shape
    return height % 2 == width % 2 == 0 and batch * height * width >= 512


def _wide_forward(x, kernel):
    return _wide_on_cpu(x, kernel), (x, kernel)


def _wide_backward(arguments, gradient):
    x, kernel = arguments
    if _winograd_pays(x):
        of_x = winograd(gradient, kernel, transposed=True)
    else:
        of_x = _conv_transposed(gradient, kernel)
    _, of_kernel = jax.vjp(lambda kernel: _conv(x, kernel), kernel)
    return of_x, *of_kernel(gradient)


def _conv_transposed(gradient, kernel):
    """The gradient for x, [B, H, W, O] -> [B, H, W, C], by one product and sums of shifted images.

    XLA would transpose the kernel, which takes longer than to multiply few pixels with it.
    """
    # Of two axes, or XLA would transpose it all the same.
    taps = jnp.tensordot(gradient, kernel.reshape(-1, kernel.shape[3]), axes=(3, 1))
    taps = taps.reshape(*gradient.shape[:3], *kernel.shape[:3])
    shifts = (-1, 0, 1)
    return sum(
        jax.lax.pad(taps[:, :, :, i, j], 0.0, ((0, 0, 0), (dy, -dy, 0), (dx, -dx, 0), (0, 0, 0)))
        for i, dy in enumerate(shifts)
        for j, dx in enumerate(shifts)
    )


_wide_on_cpu.defvjp(_wide_forward, _wide_backward)


def doubled(x):
    """Repeats every pixel: [B, h, w, C] -> [B, 2h, 2w, C]."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def conv_on_doubled(x, kernel):
    """What `conv2d(doubled(x), kernel)` is for a kernel [3, 3, C, O], with fewer operations.

    Three rows of the doubled image are two of x. Taps that meet the same pixel add up, which leaves
    2.25 times fewer multiply-adds, and nothing is doubled. In 16 bits the sums of weights are
    rounded once more.

    A program that is only inspected has the convolution as it is defined, as others count it.

    Returns: [B, 2h, 2w, O] in the dtype of x.
    """
    return (_as_defined if target_device()[0] == "none" else _conv_on_doubled)(x, kernel)


def _as_defined(x, kernel):
    return _conv(doubled(x), kernel)


def _taps(kernel):
    """With zeros in the place of repeated rows, a kernel [4, 4, C, O] reads what `kernel` does.

    It reads each row as it is and once more a row later.
    """
    taps = kernel.astype(jnp.float32)
    for axis in (0, 1):
        before, after = ([(0, 0)] * 4 for _ in range(2))
        before[axis], after[axis] = (1, 0), (0, 1)
        taps = jnp.pad(taps, before) + jnp.pad(taps, after)
    return taps


def _transposed(x, kernel):
    """As a transposed convolution, for which accelerators have programs."""
    # Written reversed: by this, compilers for GPUs know it.
    taps = jax.lax.rev(_taps(jax.lax.rev(kernel, (0, 1))).astype(x.dtype), (0, 1))
    return _conv(x, taps, padding=((2, 2), (2, 2)), lhs_dilation=(2, 2))


def _by_phases(x, kernel):
    """As four 2x2 convolutions, one for each of the four pixels that a pixel becomes.

    On a CPU it takes half the time; on a TPU, putting the pixels in their places costs more than
    the operations save. For fewer than 128 pixels, adding up weights costs more than it saves.
    """
    _, height, width, _ = x.shape
    if not jax.export.is_symbolic_dim(height) and height * width < 128:
        return _as_defined(x, kernel)

    kernel = kernel.astype(jnp.float32)

    def at(row, column):
        taps = _taps_that_meet(_taps_that_meet(kernel, 0, row), 1, column)
        return _conv(x, taps, padding=((1 - row, row), (1 - column, column)))

    rows = [jnp.stack([at(row, column) for column in (0, 1)], axis=3) for row in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(x.shape[0], 2 * height, 2 * width, -1)


def _taps_that_meet(kernel, axis, position):
    """Adds up taps that meet one pixel of x: for the first (0) or the second (1) of its two."""
    first, middle, last = (jax.lax.index_in_dim(kernel, i, axis) for i in range(3))
    taps = (first + middle, last) if position else (first, middle + last)
    return jnp.concatenate(taps, axis)


@jax.custom_vjp
def _conv_on_doubled(x, kernel):
    if jax.export.is_symbolic_dim(x.shape[1]):  # a program for any size is one for any platform
        return jax.lax.platform_dependent(x, kernel, cpu=_by_phases, default=_transposed)
    return (_by_phases if target_device()[0] == "cpu" else _transposed)(x, kernel)


def _forward(x, kernel):
    return _conv_on_doubled(x, kernel), (x, kernel)


def _backward(arguments, gradient):
    x, kernel = arguments
    _, of_x = jax.vjp(lambda x: _transposed(x, kernel), x)
    # XLA for CPUs takes ten times as long for the other forms' gradient.
    conv = _transposed if target_device()[0] == "tpu" else _as_defined
    _, of_kernel = jax.vjp(lambda kernel: conv(x, kernel), kernel)
    return *of_x(gradient), *of_kernel(gradient)


_conv_on_doubled.defvjp(_forward, _backward)
