"""Winograd's algorithm for 3x3 convolutions: F(2x2, 3x3), 2.25 times fewer multiplications.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016.
"""

import jax
import jax.numpy as jnp

# How many tiles are computed at a time: all, or where these would leave the cache, strips of the
# image.
_TILES_AT_ONCE, _TILES_OF_A_STRIP = 1024, 512


def winograd(x, kernel, transposed=False):
    """Convolves [B, H, W, C] with [3, 3, C, O], padded by 1; H and W are even.

    Args:
      transposed: convolve [B, H, W, O] with the kernel reversed and its channels exchanged, to
        [B, H, W, C], as the gradient of the convolution does; no array is transposed for it.

    Each tile of 2x2 pixels comes of 4x4 pixels. Linear combinations of these, and of the kernel's
    rows and columns, leave sixteen products of matrices. All coefficients are 0, 1, -1 and 1/2, so
    rounding errors are of the size of a convolution's.

    Returns: [B, H, W, O] in the dtype of x.
    """
    batch, height, width, _ = x.shape
    inputs, outputs = (1, 0) if transposed else (0, 1)  # axes of the weights
    x, kernel = jax.lax.optimization_barrier(
        (x, kernel)
    )  # no kernel is transformed before its turn
    weights = [
        [taps[0, 0] for taps in _combined_taps(row, 1, transposed)]
        for row in _combined_taps(kernel, 0, transposed)
    ]
    channels = weights[0][0].shape[outputs]
    rows, columns = height // 2, width // 2
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = x.reshape(batch, rows + 1, 2, columns + 1, 2, -1)

    def convolved(pairs):
        """[B, n + 1, 2, columns + 1, 2, C] -> [B, 2n, W, O]."""
        products = [
            [
                jnp.tensordot(pixels, weights[i][j], axes=(3, inputs))
                for j, pixels in enumerate(_combined_pixels(row, axis=2))
            ]
            for i, row in enumerate(_combined_pixels(pairs, axis=1))
        ]
        halves = zip(*(_outputs(row) for row in products), strict=True)  # left, right pixels
        left, right = (_outputs(half) for half in halves)  # each (upper, lower)
        lines = [jnp.stack(line, axis=3) for line in zip(left, right, strict=True)]
        return jnp.stack(lines, axis=2).reshape(batch, -1, width, channels)

    if batch * rows * columns <= _TILES_AT_ONCE:
        return convolved(x)
    most = max(1, _TILES_OF_A_STRIP // (batch * columns))
    strip = next(n for n in range(most, 0, -1) if rows % n == 0)

    def add_strip(i, out):
        # A row of pairs more than of tiles, which overlap.
        part = jax.lax.dynamic_slice_in_dim(x, i * strip, strip + 1, axis=1)
        return jax.lax.dynamic_update_slice_in_dim(out, convolved(part), i * 2 * strip, axis=1)

    # To be written over; of a value of x, so that it is not laid out before its turn.
    out = jnp.full((batch, height, width, channels), x[0, 0, 0, 0, 0, 0])
    return jax.lax.fori_loop(0, rows // strip, add_strip, out)


def _combined_taps(kernel, axis, is_reversed):
    """Three taps on an axis -> four arrays with one."""
    order = (2, 1, 0) if is_reversed else (0, 1, 2)
    a, b, c = (jax.lax.slice_in_dim(kernel, i, i + 1, axis=axis) for i in order)
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
    """Four products -> the two pixels of a tile on an axis."""
    a, b, c, d = products
    return a + b + c, b - c - d
