"""Noise for a sample of the encoder's posterior, the same for a tile and for the whole image."""

import numpy as np

from tvt_jax.inference.tiling import Tile

_BLOCK = 16  # latent positions


def posterior_noise(seed: int, tile: Tile, downsampling: int, channels: int) -> np.ndarray:
    """Standard normal values for the latent of a part of an image, [h, w, channels] float32.

    Every block of the whole image's latent has a stream of its own.

    Args:
      seed: of the sample.
      tile: the part; its starts are multiples of `downsampling`.
      downsampling: px that a position of the latent stands for.
      channels: of the latent.
    """
    blocks, inside = [], []
    for span in tile:
        start, stop = span.start // downsampling, -(-span.stop // downsampling)
        blocks.append(range(start // _BLOCK, -(-stop // _BLOCK)))
        inside.append(slice(start % _BLOCK, start % _BLOCK + stop - start))

    def block(row: int, column: int) -> np.ndarray:
        stream = np.random.Philox(key=seed, counter=[0, 0, row, column])
        shape = (_BLOCK, _BLOCK, channels)
        return np.random.Generator(stream).standard_normal(shape, np.float32)

    rows = [np.concatenate([block(i, j) for j in blocks[1]], axis=1) for i in blocks[0]]
    return np.concatenate(rows)[tuple(inside)]
