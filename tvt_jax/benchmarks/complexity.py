"""Parameters and multiply-adds of networks, from their shapes alone.

The paper counts convolutions and linear layers and leaves out attention's two matrix products; both
are reported here.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tvt_jax.config import (
    RAM_SWIN_LARGE,
    SD21_TEXT_ENCODER,
    UNetConfig,
    VAEConfig,
)
from tvt_jax.models.networks import abstract_network
from tvt_jax.models.target import compiling_for

_TEXT_TOKENS = 77
_IMAGE = 512


@dataclasses.dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds of one call.

    Attributes:
      parameters: number of weights.
      layers: multiply-adds of convolutions and linear layers.
      attention: multiply-adds of attention's two matrix products.
    """

    parameters: int
    layers: int
    attention: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.parameters + other.parameters,
            self.layers + other.layers,
            self.attention + other.attention,
        )


def vae_cost(config: VAEConfig) -> Cost:
    """Encoding and decoding a 512 px image."""
    model = abstract_network("vae", config)

    def reconstruct(vae, image):
        mean, _, skips = vae.encode(image)
        return vae.decode(mean, skips)

    return _cost(model, reconstruct, jax.ShapeDtypeStruct((1, _IMAGE, _IMAGE, 3), jnp.float32))


def unet_cost(config: UNetConfig, latent_side: int) -> Cost:
    """One step on a square latent, with 77 text tokens."""
    shapes = (
        jax.ShapeDtypeStruct((1, latent_side, latent_side, config.in_channels), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
        jax.ShapeDtypeStruct((1, _TEXT_TOKENS, config.cross_attention_dim), jnp.float32),
    )
    return _cost(abstract_network("unet", config), lambda unet, *a: unet(*a), *shapes)


def text_encoder_cost() -> Cost:
    """Encoding one prompt with SD 2.1's text encoder."""
    model = abstract_network("text_encoder", SD21_TEXT_ENCODER)
    tokens = jax.ShapeDtypeStruct((1, _TEXT_TOKENS), jnp.int32)
    return _cost(model, lambda encoder, t: encoder(t), tokens)


def tagger_cost() -> Cost:
    """Tagging one image with RAM; what depends on the classes alone is computed once before."""
    config = RAM_SWIN_LARGE
    model = abstract_network("tagger", config)
    graph, params = nnx.split(model)
    labels = jax.eval_shape(lambda p: nnx.merge(graph, p).label_queries(), nnx.as_pure(params))
    image = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    return _cost(model, lambda tagger, *a: tagger(*a), image, labels)


def _cost(model: nnx.Module, call, *shapes) -> Cost:
    graph, params = nnx.split(model)
    params = nnx.as_pure(params)
    layers, attention = multiply_adds(lambda p, *a: call(nnx.merge(graph, p), *a), params, *shapes)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    return Cost(parameters, layers, attention)


def multiply_adds(function: Callable, *arguments: Any) -> tuple[int, int]:
    """Multiply-adds of a function of arrays, gradients included.

    Args:
      function: counted as written, so pass it without rematerialisation. Of branches the most
        expensive one counts.
      arguments: trees of arrays or shapes.

    Returns: (of convolutions and linear layers, of attention's two matrix products). For gradients
      only the sum is meaningful.
    """
    # A fused kernel has no products to count, and blocks compute some of them twice. JAX keeps what
    # it traces by the function: of one made here, so that `function` itself is traced anew later.
    with compiling_for("none"):
        program = jax.make_jaxpr(lambda *a: function(*a))(*arguments)
    return _multiply_adds(program.jaxpr)


def _multiply_adds(jaxpr) -> tuple[int, int]:
    """(of layers, of attention) in a program and the programs that it calls."""
    layers = attention = 0
    for equation in jaxpr.eqns:
        name, inputs = equation.primitive.name, [v.aval.shape for v in equation.invars]
        outputs = [v.aval.shape for v in equation.outvars]
        if name == "conv_general_dilated":
            features = equation.params["dimension_numbers"].rhs_spec[0]  # an axis of the kernel
            count = math.prod(outputs[0]) * math.prod(inputs[1]) // inputs[1][features]
            # In the gradient of a stride, most taps meet the zeros between the input's pixels.
            layers += count // math.prod(equation.params["lhs_dilation"])
        elif name == "dot_general":
            (contracted, _), (batched, _) = equation.params["dimension_numbers"]
            count = math.prod(outputs[0]) * math.prod(inputs[0][axis] for axis in contracted)
            if batched:  # a product of activations
                attention += count
            else:
                layers += count
        elif name == "cond":
            branches = equation.params["branches"]
            a, b = max((_multiply_adds(branch.jaxpr) for branch in branches), key=sum)
            layers, attention = layers + a, attention + b
        else:
            times = equation.params.get("length", 1) if name == "scan" else 1
            for inner in _inner_programs(equation.params.values()):
                a, b = _multiply_adds(inner)
                layers, attention = layers + times * a, attention + times * b
    return layers, attention


def _inner_programs(values: Iterable) -> Iterable:
    for value in values:
        if hasattr(value, "jaxpr"):
            yield value.jaxpr
        elif hasattr(value, "eqns"):
            yield value
