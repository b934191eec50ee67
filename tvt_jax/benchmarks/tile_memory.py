"""Memory of restoration by tiles at full size, from the compiler, beside what `infer` expects.

Tiles are of one shape, so this is what an image of any size takes beside its output.
"""

import contextlib
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import SingleDeviceSharding

from tvt_jax.benchmarks.tpu_step import tpu_devices
from tvt_jax.compiler import compile_program
from tvt_jax.config import CE_UNET, VAE_D4
from tvt_jax.data.samples import PROMPT_TOKENS
from tvt_jax.errors import UserError
from tvt_jax.inference.loading import vae_dtype
from tvt_jax.inference.memory_plan import memory_need
from tvt_jax.inference.norm_statistics import Parts, Statistics
from tvt_jax.inference.tile_programs import (
    Batch,
    count_statistics,
    lower_program,
    restore_tile,
    sample_statistics,
)
from tvt_jax.inference.tiling import SAMPLE_CROP
from tvt_jax.models.networks import Network, abstract_network
from tvt_jax.models.target import compiling_for

_ALPHA_BAR = 0.5  # any: memory does not depend on it


def tile_memory_table(
    sides: tuple[int, ...], crops: tuple[int, ...], topology: str | None, dtype: str
) -> str:
    """Compiles the programs of TVT's networks.

    Args:
      sides: of tiles, px, as of `plan_memory`.
      crops: numbers of crops that a sample has.
      topology: of a TPU slice, one chip of which is compiled for; None for this machine's CPU.
      dtype: "float32" or "bfloat16", of the networks.

    Returns: a Markdown table: memory of the weights and of everything else that the compiler
      counts, and what the plan of `infer` expects of the latter. Its rows go to stderr at once.
    Raises:
      UserError: a number does not fit the networks, a program does not fit the chip, or as
        `tpu_devices`.
    """
    unit = VAE_D4.downsampling * 2 ** (len(CE_UNET.block_out_channels) - 1)
    if wrong := [side for side in sides if side < unit or side % unit]:
        raise UserError(f"`sides` {wrong[0]} must be a multiple of {unit} px with these networks.")
    if min(crops, default=1) < 1:
        raise UserError("`crops` must be at least 1.")
    device = tpu_devices(topology)[0] if topology else jax.local_devices(backend="cpu")[0]
    rows = [
        "| program | dtype | weights, GiB | besides, GiB | expected, GiB | compiled in |",
        "|---|---|---|---|---|---|",
    ]
    programs = [(f"a tile of {side} px", restore_tile, 1, side) for side in sides]
    programs += [
        (f"a sample of {number} crops", sample_statistics, number, SAMPLE_CROP) for number in crops
    ]
    with compiling_for("tpu") if topology else contextlib.nullcontext():
        for what, program, number, side in programs:
            start = time.perf_counter()
            analysis = _compiled(program, number, side, dtype, device, what).memory_analysis()
            seconds = time.perf_counter() - start
            besides = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
            expected = memory_need(VAE_D4, device.platform).of(number * side**2)
            sizes = [analysis.argument_size_in_bytes, besides, expected]
            figures = " | ".join(f"{size / 2**30:.2f}" for size in sizes)
            rows.append(f"| {what} | {dtype} | {figures} | {seconds:.0f} s |")
            print(rows[-1], file=sys.stderr, flush=True)
    return "\n".join(rows)


def _compiled(
    program: Callable, number: int, side: int, dtype: str, device: jax.Device, what: str
) -> jax.stages.Compiled:
    sharding = SingleDeviceSharding(device)

    def shape(dimensions, kind):
        return jax.ShapeDtypeStruct(dimensions, kind, sharding=sharding)

    def network(kind, config, computed_in, held_in):
        module = abstract_network(kind, config, dtype=computed_in, param_dtype=held_in)
        graph, params = nnx.split(module)
        params = jax.tree.map(lambda leaf: shape(leaf.shape, leaf.dtype), nnx.as_pure(params))
        return Network(kind, config, jnp.dtype(computed_in), graph, params)

    vae = network("vae", VAE_D4, vae_dtype(dtype), "float32")
    unet = network("unet", CE_UNET, dtype, dtype)
    parts = Parts(shape((number, 4), jnp.int32), shape((number, 2), jnp.int32))
    batch = Batch(shape((number, side, side, 3), jnp.uint8), parts, None)
    texts = number if program is sample_statistics else 1
    context = shape((texts, PROMPT_TOKENS, CE_UNET.cross_attention_dim), unet.dtype)
    given = Statistics(*[shape((count_statistics(vae, unet),), jnp.float32)] * 2)
    lowered = lower_program(program, vae, unet, _ALPHA_BAR, batch, context, given)
    return compile_program(lowered, what, "lower `sides` or `crops`")
