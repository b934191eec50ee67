"""The compute-efficient UNet from Stable Diffusion's weights alone.

Source: paper section 3.3: the first and the last level are replicated for the doubled resolution,
and the original network continues to work at the resolution that it was trained for.
"""

import dataclasses
import re

import numpy as np

from tvt_jax.config import UNetConfig
from tvt_jax.weights.tensor_files import Tensors


def replicated_config(sd: UNetConfig) -> UNetConfig:
    """Adds one level in front of (and behind) the UNet `sd`, a copy of its first and last."""
    return dataclasses.replace(
        sd,
        block_out_channels=sd.block_out_channels[:1] + sd.block_out_channels,
        down_block_types=sd.down_block_types[:1] + sd.down_block_types,
        up_block_types=sd.up_block_types + sd.up_block_types[-1:],
        attention_head_dim=sd.num_heads[:1] + sd.num_heads,
    )


def replicated_tensors(sd: UNetConfig, tensors: Tensors) -> Tensors:
    """Computes every tensor of the CE-UNet from SD's UNet.

    `down_blocks.0` and `up_blocks.N` (the last) are copies of SD's first and last level. The last
    level's first ResNet block takes 320 + 320 channels where SD's takes 640 + 320, so it is a copy
    of SD's second one, which has that shape and place. SD has no convolution after the new
    enlargement in `up_blocks.N-1`; it starts as the identity, so the features pass unchanged.

    Args:
      sd: configuration of SD's UNet.
      tensors: its state dict.

    Returns: the state dict of `replicated_config(sd)`.
    """
    last = len(sd.block_out_channels) - 1
    width = sd.block_out_channels[0]
    upsampler = f"up_blocks.{last}.upsamplers.0.conv."
    new_shapes = {
        f"{upsampler}weight": (width, width, 3, 3),
        f"{upsampler}bias": (width,),
    }

    origin = {}
    for name in tensors:
        block = re.fullmatch(r"(down_blocks|up_blocks)\.(\d+)\.(.+)", name)
        if block is None:
            origin[name] = name
            continue
        kind, level, rest = block[1], int(block[2]), block[3]
        if kind == "down_blocks":
            origin[f"down_blocks.{level + 1}.{rest}"] = name
            if level == 0:
                origin[name] = name
            continue
        origin[name] = name
        if level == last and not rest.startswith("resnets.0."):
            origin[f"up_blocks.{last + 1}.{rest}"] = name
            if rest.startswith("resnets.1."):
                first = rest.replace("resnets.1.", "resnets.0.", 1)
                origin[f"up_blocks.{last + 1}.{first}"] = name

    def read(name: str) -> np.ndarray:
        if name in origin:
            return tensors[origin[name]]
        value = np.zeros(new_shapes[name], np.float32)
        if name.endswith("weight"):
            value[np.arange(width), np.arange(width), 1, 1] = 1.0
        return value

    shapes = {name: tensors.shape(source) for name, source in origin.items()}
    return Tensors(f"{tensors.source}, replicated", shapes | new_shapes, read)
