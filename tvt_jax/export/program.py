"""The restoration as functions of weights and images of any size, for every format of export."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tvt_jax.diffusion import ONE_STEP_TIMESTEP, alphas_cumprod
from tvt_jax.errors import UserError
from tvt_jax.export.enlargement import enlarge
from tvt_jax.export.portable import make_portable
from tvt_jax.inference.color import color_fix as fix_colors
from tvt_jax.inference.options import RestorationOptions
from tvt_jax.models.networks import Network
from tvt_jax.restoration import restore
from tvt_jax.text import build_prompt, load_text
from tvt_jax.weights.model_folder import check_is_model_folder, load_network, read_scheduler_config

DTYPES = ("float32", "bfloat16")
PLATFORMS = ("cpu", "cuda", "tpu")
# Among the weights: the embedding of the prompt, and the encoder of others.
_PROMPT, _ENCODER = "prompt", "text_encoder"


@dataclasses.dataclass(frozen=True)
class Program:
    """A function to export.

    Attributes:
      function: (weights, *inputs) -> [b, H, W, 3] uint8.
      weights: names of the weights that it reads.
      inputs: name, shape with symbolic sizes, dtype of each.
    """

    function: Callable[..., jax.Array]
    weights: tuple[str, ...]
    inputs: tuple[tuple[str, str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Programs:
    """What is exported of a model.

    Attributes:
      by_name: "upscale" enlarges by 4, "restore" keeps the size; "restore_with_tokens" where the
        model has a text encoder.
      weights: all of them by name, jax arrays.
      prompt: what "upscale" and "restore" are guided by; None for a stored embedding.
    """

    by_name: Mapping[str, Program]
    weights: Mapping[str, jax.Array]
    prompt: str | None


def load_programs(model: Path, dtype: str, color_fix: str) -> Programs:
    """Reads a model folder as functions to export.

    Args:
      model: the model folder.
      dtype: of UNet and text encoder, one of `DTYPES`; the VAE is float32.
      color_fix: as of `RestorationOptions`.

    Raises:
      UserError: the folder is incomplete or damaged, or an argument is wrong.
    """
    if dtype not in DTYPES:
        raise UserError(f"`dtype` {dtype} is not one of {', '.join(DTYPES)}.")
    options = RestorationOptions(color_fix=color_fix)
    check_is_model_folder(model)
    vae = load_network(model / "vae", "vae", jnp.float32, jnp.float32)
    unet = load_network(model / "unet", "unet", jnp.dtype(dtype), jnp.dtype(dtype))
    text = load_text(model, jnp.dtype(dtype))
    alpha_bar = float(alphas_cumprod(read_scheduler_config(model))[ONE_STEP_TIMESTEP])
    restoration = _make_restoration(vae, unet, alpha_bar, options.color_fix)
    weights = _flat("vae", vae.params) | _flat("unet", unet.params)
    networks = tuple(weights)
    prompt = build_prompt((), options.prompt) if text.takes_prompts else options.prompt
    weights[_PROMPT] = text.embed(prompt)

    def restore_images(weights, images):
        context = weights[_PROMPT]
        context = jnp.broadcast_to(context, (images.shape[0], *context.shape[1:]))
        return restoration(weights, images, context)

    def upscale(weights, images):
        return restore_images(weights, enlarge(images))

    images = ("images", "b, h, w, 3", jnp.uint8)
    programs = {
        "upscale": Program(upscale, (*networks, _PROMPT), (images,)),
        "restore": Program(restore_images, (*networks, _PROMPT), (images,)),
    }
    if text.takes_prompts:
        encoder = _flat(_ENCODER, text.params)
        merge = _merging(_ENCODER, text.params)

        def restore_with_tokens(weights, images, tokens):
            return restoration(weights, images, text.encode(merge(weights), tokens))

        programs["restore_with_tokens"] = Program(
            restore_with_tokens,
            (*networks, *encoder),
            (images, ("tokens", f"b, {text.num_tokens}", jnp.int32)),
        )
        weights |= encoder
    return Programs(programs, weights, prompt)


def lower(
    program: Program, weights: Mapping[str, jax.Array], calling_convention: int | None = None
) -> jax.export.Exported:
    """Traces a program for all sizes and platforms at once, in portable form.

    Args:
      program: the program.
      weights: at least those that it reads; only their shapes and dtypes matter.
      calling_convention: of `jax.export`; None for its newest.
    """
    scope = jax.export.SymbolicScope()
    specs = [
        jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape, scope=scope), dtype)
        for _, shape, dtype in program.inputs
    ]
    used = {name: weights[name] for name in program.weights}
    abstract = {name: jax.ShapeDtypeStruct(w.shape, w.dtype) for name, w in used.items()}
    settings = {
        # Else the file says where this package lies on the machine that exports it.
        "jax_include_full_tracebacks_in_locations": False,
        "jax_hlo_source_file_canonicalization_regex": ".*/",
    }
    if calling_convention is not None:
        settings["jax_export_calling_convention_version"] = calling_convention
    with _jax_settings(settings):
        function = jax.jit(program.function)
        return make_portable(jax.export.export(function, platforms=PLATFORMS)(abstract, *specs))


@contextlib.contextmanager
def _jax_settings(values: Mapping[str, Any]) -> Iterator[None]:
    before = {name: getattr(jax.config, name) for name in values}
    try:
        for name, value in values.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _make_restoration(vae: Network, unet: Network, alpha_bar: float, method: str) -> Callable:
    """(weights, images [b, H, W, 3] uint8, context [b, N, C]) -> images of the same shape."""
    vae_params, unet_params = _merging("vae", vae.params), _merging("unet", unet.params)
    multiple = max(8, vae.config.downsampling)

    def restoration(weights, images, context):
        height, width = images.shape[1:3]
        padded = _reflect(_reflect(images, 1, multiple), 2, multiple)
        restored, _ = restore(
            vae(vae_params(weights)), unet(unet_params(weights)),
            padded.astype(jnp.float32) / 127.5 - 1.0, context,
            scaling_factor=vae.config.scaling_factor, alpha_bar=alpha_bar,
        )  # fmt: skip
        restored = jnp.clip(restored[:, :height, :width], -1.0, 1.0) * 0.5 + 0.5
        reference = images.astype(jnp.float32) / 255.0
        fixed = jax.vmap(lambda o, r: fix_colors(o, r, method))(restored, reference)
        return jnp.round(jnp.clip(fixed, 0.0, 1.0) * 255.0).astype(jnp.uint8)

    return restoration


def _reflect(images: jax.Array, axis: int, multiple: int) -> jax.Array:
    """Pads an axis at its end to a multiple by mirroring, as numpy does, whatever its size."""
    size = images.shape[axis]
    position = jnp.arange((size + multiple - 1) // multiple * multiple)
    period = jnp.maximum(2 * (size - 1), 1)  # a single row has nothing to mirror but itself
    position = position % period
    return jnp.take(images, jnp.minimum(position, 2 * (size - 1) - position), axis=axis)


def _flat(kind: str, params: nnx.State) -> dict[str, jax.Array]:
    return {_name(kind, path): value for path, value in nnx.to_flat_state(params)}


def _merging(kind: str, params: nnx.State) -> Callable[[Mapping[str, jax.Array]], nnx.State]:
    """(weights by name) -> a network's parameters."""
    names = {path: _name(kind, path) for path, _ in nnx.to_flat_state(params)}

    def merge(weights):
        flat = {path: weights[name] for path, name in names.items()}
        return nnx.as_pure(nnx.from_flat_state(flat))

    return merge


def _name(kind: str, path: tuple) -> str:
    return ".".join(map(str, (kind, *path)))
