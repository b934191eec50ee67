"""Every network at full size, and its gradient, lowers for each kind of accelerator, without one.

jax refuses at this point what cuDNN's attention cannot compute; its questions about the GPU at hand
are answered for the GPU in question.
"""

import itertools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from tvt_jax.config import RAM_SWIN_LARGE, SD21_TEXT_ENCODER, UNETS, VAES
from tvt_jax.models.networks import abstract_network
from tvt_jax.models.target import compiling_for
from tvt_jax.parallel import preferred_dtype

TARGETS = {"T4": ("gpu", "7.5"), "A100": ("gpu", "8.0"), "H100": ("gpu", "9.0"), "TPU": ("tpu", "")}
FLOAT, INT = jnp.float32, jnp.int32


def vae(module, image):
    mean, _, skips = module.encode(image)
    return module.decode(mean, skips)


def call(module, *arguments):
    return module(*arguments)


# Name -> (kind, configuration, function, its arguments): images of 512 px, the batch of a device.
# VAE-D8 is stage 1's teacher, which reads images of twice the side.
NETWORKS = {
    "VAE-D8": ("vae", VAES["VAE-D8"], vae, (((4, 1024, 1024, 3), FLOAT),)),
    "VAE-D8-SC": ("vae", VAES["VAE-D8-SC"], vae, (((4, 512, 512, 3), FLOAT),)),
    "V1": ("vae", VAES["V1"], vae, (((4, 512, 512, 3), FLOAT),)),
    "SD 2.1": (
        "unet", UNETS["SD 2.1"], call,
        (((64, 64, 64, 4), FLOAT), ((64,), INT), ((64, 77, 1024), FLOAT)),
    ),
    "CE-UNet": (
        "unet", UNETS["CE-UNet"], call,
        (((2, 128, 128, 4), FLOAT), ((2,), INT), ((2, 77, 1024), FLOAT)),
    ),
    "text encoder": ("text_encoder", SD21_TEXT_ENCODER, call, (((16, 77), INT),)),
    "tagger": ("tagger", RAM_SWIN_LARGE, call, (((1, 384, 384, 3), FLOAT),)),
}  # fmt: skip


QUICK = {("A100", "VAE-D8"), ("TPU", "V1")}  # the others take minutes together


@pytest.mark.parametrize(
    ("target", "network"),
    [
        pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
        for pair in itertools.product(TARGETS, NETWORKS)
    ],
)
def test_networks_lower(target, network, monkeypatch):
    platform, capability = TARGETS[target]

    def at_least(wanted):
        return float(capability) >= float(wanted)

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(cudnn, "check_compute_capability", at_least)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda wanted: False)
    kind, config, function, arguments = NETWORKS[network]
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in arguments]
    with compiling_for(platform, capability):
        module = abstract_network(kind, config, dtype=jnp.dtype(preferred_dtype()))
        graph, params = nnx.split(module)

        def loss(params, *arguments):
            return jnp.sum(function(nnx.merge(graph, params), *arguments))

        traced = jax.jit(jax.grad(loss)).trace(nnx.as_pure(params), *arguments)
        text = traced.lower(lowering_platforms=("cuda" if platform == "gpu" else "tpu",)).as_text()
    cudnn_runs = network in ("SD 2.1", "CE-UNet") and target in ("A100", "H100")
    assert ("cudnn" in text) == cudnn_runs
