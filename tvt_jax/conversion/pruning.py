"""Ablation S5: Stable Diffusion's UNet without a quarter of its channels.

The paper says no more than "pruning 25% of its channels". Here the first three quarters of every
width stay, in whole norm groups; attention keeps the first channels of its first heads.
"""

import dataclasses
import re

import numpy as np

from tvt_jax.config import UNetConfig
from tvt_jax.weights.tensor_files import Tensors


def pruned_config(sd: UNetConfig) -> UNetConfig:
    """Three quarters of the widths and of the norm groups of the UNet `sd`, and fewer heads.

    Raises:
      ValueError: a width cannot be pruned so.
    """
    widths = tuple(width * 3 // 4 for width in sd.block_out_channels)
    config = dataclasses.replace(
        sd,
        block_out_channels=widths,
        attention_head_dim=tuple(_fewer(heads) for heads in sd.num_heads),
        norm_num_groups=sd.norm_num_groups * 3 // 4,
    )
    config.validate()
    return config


def _fewer(heads: int) -> int:
    """Heads that divide three quarters of a width: of 5, 10, 20 stay 4, 8, 16."""
    return heads * 4 // 5 if heads % 5 == 0 else heads


def pruned_tensors(sd: UNetConfig, tensors: Tensors) -> Tensors:
    """Computes every tensor of `pruned_config(sd)`.

    Args:
      sd: configuration of the whole UNet.
      tensors: its state dict.
    """
    kept = {
        name: tuple(_kept(sd, name, axis, size) for axis, size in enumerate(tensors.shape(name)))
        for name in tensors
    }

    def read(name: str) -> np.ndarray:
        return tensors[name][np.ix_(*kept[name])]

    shapes = {name: tuple(len(axis) for axis in axes) for name, axes in kept.items()}
    return Tensors(f"{tensors.source}, pruned", shapes, read)


def _kept(sd: UNetConfig, name: str, axis: int, size: int) -> np.ndarray:
    """Which channels of an axis stay."""
    layer = name.rpartition(".")[0]
    is_input = axis == 1 or layer.endswith("norm1")
    fixed = (
        axis > 1  # of a kernel
        or (layer == "conv_in" and axis == 1)
        or (layer == "conv_out" and axis == 0)
        or (layer.endswith(("attn2.to_k", "attn2.to_v")) and axis == 1)  # the text
    )
    if fixed:
        return np.arange(size)
    if layer == "time_embedding.linear_1" and axis == 1:
        # Sines and cosines of the frequencies that come nearest to those of a narrower embedding.
        half, few = size // 2, size // 2 * 3 // 4
        nearest = np.rint(np.arange(few) * half / few).astype(int)
        return np.concatenate([nearest, half + nearest])
    if layer.endswith("net.0.proj") and axis == 0:  # values and gates
        return _first_of_each((size // 2,) * 2)
    if (
        re.search(r"attn\d\.to_[qkv]$", layer)
        and axis == 0
        or (layer.endswith("to_out.0") and axis == 1)
    ):
        return _first_of_heads(_heads(sd, layer), size)
    concatenated = re.fullmatch(
        r"up_blocks\.(\d+)\.resnets\.(\d+)\.(norm1|conv1|conv_shortcut)", layer
    )
    if concatenated and is_input:
        return _first_of_each(_inputs(sd, int(concatenated[1]), int(concatenated[2])))
    return np.arange(size * 3 // 4)


def _first_of_each(sizes: tuple[int, ...]) -> np.ndarray:
    """The first three quarters of each of the parts that follow each other on an axis."""
    starts = np.cumsum((0, *sizes[:-1]))
    return np.concatenate(
        [start + np.arange(size * 3 // 4) for start, size in zip(starts, sizes, strict=True)]
    )


def _first_of_heads(heads: int, width: int) -> np.ndarray:
    """The first channels of the first heads."""
    few = _fewer(heads)
    channels = width * 3 // 4 // few
    return (np.arange(few)[:, None] * (width // heads) + np.arange(channels)).ravel()


def _heads(sd: UNetConfig, layer: str) -> int:
    block = re.match(r"(down|up)_blocks\.(\d+)", layer)
    if block is None:  # the middle
        return sd.num_heads[-1]
    level = int(block[2])
    return sd.num_heads[level if block[1] == "down" else -1 - level]


def _inputs(sd: UNetConfig, block: int, resnet: int) -> tuple[int, int]:
    """What a ResNet block on the way up reads: (channels from below, channels of the way down)."""
    up = sd.block_out_channels[::-1]
    last = sd.layers_per_block
    below = up[max(block - 1, 0)] if resnet == 0 else up[block]
    skipped = up[min(block + 1, len(up) - 1)] if resnet == last else up[block]
    return below, skipped
