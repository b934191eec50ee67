"""Winograd's algorithm for 3x3 convolutions: F(2x2, 3x3), 2.25 times fewer multiplications.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016.
"""

import jax
import jax.numpy as jnp

_TILES_AT_ONCE = 256  # more of them leave the cache


def winograd(x, kernel, transposed=False):
    """Convolves [B, H, W, C] with [3, 3, C, O], padded by 1; H and W are even.

    Each tile of 2x2 pixels comes of 4x4 pixels. Linear combinations of these, and of the kernel's
    rows and columns, leave sixteen products of matrices. All coefficients are 0, 1, -1 and 1/2, so
    rounding errors are of the size of a convolution's.

    Args:
      transposed: convolve [B, H, W, O] with the kernel reversed and its channels exchanged, to
        [B, H, W, C], as the gradient of the convolution does; no array is transposed for it.

    Returns: [B, H, W, O] in the dtype of x.
    """
    batch, height, width, _ = x.shape
    if transposed:
        kernel = kernel[::-1, ::-1]
    weights = jnp.stack(_combined_taps(jnp.stack(_combined_taps(kernel, 0)), 1), axis=1)
    weights = weights.reshape(16, *kernel.shape[2:])
    inputs, outputs = (2, 1) if transposed else (1, 2)  # axes of the weights
    rows, columns, channels = height // 2, width // 2, weights.shape[outputs]
    # To be written over. Of a value of x, since XLA for CPUs allots a constant before all else.
    out = jnp.full((batch, height, width, channels), x[0, 0, 0, 0])
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = x.reshape(batch, rows + 1, 2, columns + 1, 2, -1)

    def convolved(pairs):
        """[B, n + 1, 2, columns + 1, 2, C] -> [B, 2n, W, O]."""
        tiles = jnp.stack(_combined_pixels(pairs, axis=1))
        tiles = jnp.stack(_combined_pixels(tiles, axis=3), axis=1).reshape(16, -1, pairs.shape[-1])
        products = jax.lax.dot_general(tiles, weights, (((2,), (inputs,)), ((0,), (0,))))
        products = products.reshape(4, 4, batch, -1, columns, channels)
        lines = [jnp.stack(_outputs(line), axis=3) for line in _outputs(products)]
        return jnp.stack(lines, axis=2).reshape(batch, -1, width, channels)

    most = max(1, min(rows, _TILES_AT_ONCE // (batch * columns)))
    strip = next(n for n in range(most, 0, -1) if rows % n == 0)

    def add_strip(i, out):
        # A row of pairs more than of tiles, which overlap.
        part = jax.lax.dynamic_slice_in_dim(x, i * strip, strip + 1, axis=1)
        return jax.lax.dynamic_update_slice_in_dim(out, convolved(part), i * 2 * strip, axis=1)

    return jax.lax.fori_loop(0, rows // strip, add_strip, out)


def _combined_taps(kernel, axis):
    """Three taps on an axis -> four arrays without the axis."""
    a, b, c = (jax.lax.index_in_dim(kernel, i, axis, keepdims=False) for i in range(3))
    return a, (a + b + c) / 2, (a - b + c) / 2, c


def _combined_pixels(pairs, axis):
    """n + 1 pairs, on an axis and the next -> four arrays with n on the axis.

    A tile is combined of its pair and of the pair after it.
    """
    last = pairs.shape[axis] - 1
    a, b, c, d = (
        jax.lax.index_in_dim(
            jax.lax.slice_in_dim(pairs, start, start + last, axis=axis), i, axis + 1, keepdims=False
        )
        for start in (0, 1)
        for i in (0, 1)
    )
    return a - c, b + c, c - b, b - d


def _outputs(products):
    """Four products, on the first axis -> the two pixels of a tile on an axis."""
    a, b, c, d = products
    return a + b + c, b - c - d
