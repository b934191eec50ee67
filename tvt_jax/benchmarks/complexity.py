"""Parameters and multiply-adds of the networks, from their shapes alone.

The paper counts convolutions and linear layers and leaves out attention's two matrix products;
both are told here.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tvt_jax.config import RAM_SWIN_LARGE, SD21_TEXT_ENCODER, UNETS, VAES
from tvt_jax.models.attention import compiling_for
from tvt_jax.models.networks import abstract_network

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


def vae_cost(name: str) -> Cost:
    """Encoding and decoding a 512 px image with one of `VAES`."""
    model = abstract_network("vae", VAES[name])

    def reconstruct(vae, image):
        mean, _, skips = vae.encode(image)
        return vae.decode(mean, skips)

    return _cost(model, reconstruct, jax.ShapeDtypeStruct((1, _IMAGE, _IMAGE, 3), jnp.float32))


def unet_cost(name: str, latent_side: int, latent_channels: int = 4) -> Cost:
    """One step of one of `UNETS` on a square latent, with 77 text tokens."""
    channels = {"in_channels": latent_channels, "out_channels": latent_channels}
    config = dataclasses.replace(UNETS[name], **channels)
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
      function: what is counted is what its program says, so give it without rematerialisation.
        Of branches the most expensive counts.
      arguments: trees of arrays or shapes.

    Returns: (of convolutions and linear layers, of attention's two matrix products). Of gradients
      only the sum tells something: they are not told apart there.
    """
    # A fused kernel has no products to count, and blocks compute some of them twice.
    with compiling_for("none"):
        program = jax.make_jaxpr(function)(*arguments)
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


# The paper's figures: parameters and multiply-adds, "" where it gives none.
PAPER_VAES = {"VAE-D8": ("83.7 M", "1.8 T"), "VAE-D4": ("15.2 M", "1.1 T")}  # Table 1
PAPER_UNETS = {("SD 2.1", 128): "1.35 T", ("CE-UNet", 128): "0.73 T"}  # section 3.3
# Table 4: steps, parameters, multiply-adds of whole systems, text encoder and tagger included.
PAPER_SYSTEMS = {
    "StableSR": (200, "1.56 B", "79.94 T"),
    "DiffBIR": (50, "1.68 B", "24.31 T"),
    "SeeSR": (50, "2.51 B", "65.86 T"),
    "PASD": (20, "2.31 B", "29.13 T"),
    "S3Diff": (1, "1.33 B", "2.62 T"),
    "OSEDiff": (1, "1.77 B", "2.27 T"),
    "TVT": (1, "1.72 B", "1.97 T"),
}
# Tables 5 and 7: (VAE, UNet, side of the latent) and multiply-adds.
PAPER_ABLATIONS = {
    "V1": (("V1", "CE-UNet", 128), "3.02 T"),
    "V2": (("V2", "CE-UNet", 128), "2.40 T"),
    "S1": (("VAE-D8", "SD 2.1", 64), "2.27 T"),
    "S2": (("VAE-D8-SC", "SD 2.1", 64), "2.27 T"),
    "S3": (("VAE-D8C8", "SD 2.1", 64), "2.27 T"),
    "S4": (("VAE-D4", "SD 2.1", 128), "2.59 T"),
    "S5": (("VAE-D4", "Prun-UNet", 128), "2.00 T"),
    "TVT": (("VAE-D4", "CE-UNet", 128), "1.97 T"),
}
# Systems of Table 4 whose networks are here; OSEDiff's are those of S1.
_OURS = {"OSEDiff": "S1", "TVT": "TVT"}
_TITLES = ("parameters", "layers", "with attention", "paper: parameters", "paper: count")


def complexity_report() -> str:
    """The paper's tables of cost with ours beside them, for a 512 px image, in Markdown."""
    vaes = {name: vae_cost(name) for name in VAES}
    unets = {
        key: unet_cost(*key)
        for (vae, *unet), _ in PAPER_ABLATIONS.values()
        for key in [(*unet, VAES[vae].latent_channels)]
    }
    text, tagger = text_encoder_cost(), tagger_cost()
    costs = {
        name: vaes[vae] + unets[unet, side, VAES[vae].latent_channels] + text + tagger
        for name, ((vae, unet, side), _) in PAPER_ABLATIONS.items()
    }
    networks = [
        (f"{name}, encoder + decoder", cost, *PAPER_VAES.get(name, ("", "")))
        for name, cost in vaes.items()
    ]
    networks += [
        (f"UNet {name}, latent {side}x{side}x{c}", cost, "", PAPER_UNETS.get((name, side), ""))
        for (name, side, c), cost in sorted(unets.items())
    ]
    networks += [("text encoder", text, "", ""), ("tagger RAM, 384 px", tagger, "", "")]
    table4 = [
        (f"{name}, steps: {steps}", costs.get(_OURS.get(name)), parameters, count)
        for name, (steps, parameters, count) in PAPER_SYSTEMS.items()
    ]
    tables = {
        "Networks (Table 1, section 3.3)": networks,
        "Systems (Table 4), with text encoder and tagger": table4,
    }
    for title, names in {
        "Ablations of the VAE (Table 5)": ("V1", "V2", "TVT"),
        "Ablations of the UNet (Table 7)": ("S1", "S2", "S3", "S4", "S5", "TVT"),
    }.items():
        tables[title] = [
            (f"{name}: {vae} + {unet}", costs[name], "", count)
            for name in names
            for (vae, unet, _), count in [PAPER_ABLATIONS[name]]
        ]
    lines = [
        "Multiply-adds for a 512 px image. `layers` are convolutions and linear layers, which the",
        "paper counts; `with attention` adds attention's two matrix products.",
    ]
    for title, rows in tables.items():
        lines += ["", title, "", f"| | {' | '.join(_TITLES)} |", "|---" * 6 + "|"]
        lines += [
            f"| {name} | {_cells(cost)} | {' | '.join(paper)} |" for name, cost, *paper in rows
        ]
    return "\n".join(lines)


def _cells(cost: Cost | None) -> str:
    if cost is None:
        return " | | "
    return (
        f"{cost.parameters / 1e6:.2f} M | {cost.layers / 1e12:.4f} T "
        f"| {(cost.layers + cost.attention) / 1e12:.4f} T"
    )
