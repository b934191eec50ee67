"""The UNet family against diffusers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel as TorchUNet
from diffusers.models.attention import BasicTransformerBlock as TorchTransformerBlock
from diffusers.models.resnet import Downsample2D as TorchDownsample
from diffusers.models.resnet import ResnetBlock2D as TorchResnetBlock
from diffusers.models.resnet import Upsample2D as TorchUpsample
from diffusers.models.transformers.transformer_2d import Transformer2DModel as TorchTransformer
from flax import nnx

from tests.support.parity import (
    BLOCK_TOLERANCE,
    NETWORK_TOLERANCE,
    convert_module,
    max_difference,
    nchw,
    nhwc,
    noise,
)
from tests.support.small_release import randomise
from tvt_jax.config import CE_UNET, PRUNED_UNET, SD21_UNET, UNetConfig
from tvt_jax.models.layers import Downsample2D, ResnetBlock2D, Upsample2D
from tvt_jax.models.networks import init_network
from tvt_jax.models.unet import (
    BasicTransformerBlock,
    Transformer2DModel,
    timestep_embedding,
)
from tvt_jax.weights.model_folder import load_network


def shrink(config, divisor, groups):
    """The same network at a fraction of its width."""
    return dataclasses.replace(
        config,
        block_out_channels=tuple(width // divisor for width in config.block_out_channels),
        cross_attention_dim=24,
        norm_num_groups=groups,
    )


# Small versions of the three networks: 8 channels a head instead of 64, and 10 instead of 60.
CONFIGS = {
    "SD 2.1": shrink(SD21_UNET, 8, 8),
    "CE-UNet": shrink(CE_UNET, 8, 8),
    "Prun-UNet": shrink(PRUNED_UNET, 6, 8),
}


@pytest.fixture(
    scope="module",
    params=["SD 2.1", "CE-UNet", pytest.param("Prun-UNet", marks=pytest.mark.slow)],
)
def networks(request, tmp_path_factory):
    """(PyTorch network, network here), the latter loaded from the former's folder."""
    torch.manual_seed(0)
    config = CONFIGS[request.param]
    options = {k: v for k, v in config.to_json().items() if not k.startswith("_")}
    reference = randomise(TorchUNet(**options).eval())
    folder = tmp_path_factory.mktemp("unet")
    reference.save_pretrained(folder)
    return reference, load_network(folder, "unet", jnp.float32, jnp.float32)


@pytest.mark.parametrize(
    "size", [pytest.param((16, 16), marks=pytest.mark.slow), (10, 6)], ids=["even", "odd"]
)
def test_whole_network(networks, size):
    reference, network = networks
    latent, context = noise(2, *size, 4), noise(2, 77, 24, seed=1)
    timesteps = np.array([1, 640])
    got = jax.jit(lambda p, *a: network(p)(*a))(network.params, latent, timesteps, context)
    with torch.no_grad():
        want = reference(
            nchw(latent), torch.from_numpy(timesteps), torch.from_numpy(context)
        ).sample
    assert max_difference(got, nhwc(want)) < NETWORK_TOLERANCE


@pytest.mark.parametrize("flip", [True, False])
def test_timestep_embedding(flip):
    from diffusers.models.embeddings import get_timestep_embedding

    timesteps = np.array([0, 1, 999])
    got = timestep_embedding(jnp.asarray(timesteps), 32, flip, 0)
    want = get_timestep_embedding(torch.from_numpy(timesteps), 32, flip, 0)
    # sin and cos of angles up to 999 rad, whose float32 spacing is 6e-5
    assert max_difference(got, want) < 1e-4


def check_block(reference, make, call, want, *arrays):
    graph, params = convert_module(randomise(reference.eval()), make)
    got = jax.jit(lambda p, *a: call(nnx.merge(graph, p), *a))(params, *arrays)
    with torch.no_grad():
        assert max_difference(got, want(reference)) < BLOCK_TOLERANCE


@pytest.mark.parametrize(("channels_in", "channels_out"), [(16, 16), (24, 16)])
def test_resnet_block(channels_in, channels_out):
    x, temb = noise(2, 6, 5, channels_in) + 3.0, noise(2, 20, seed=1)
    check_block(
        TorchResnetBlock(
            in_channels=channels_in, out_channels=channels_out, temb_channels=20, groups=8, eps=1e-5
        ),
        lambda **p: ResnetBlock2D(
            channels_in, channels_out, groups=8, epsilon=1e-5, temb_channels=20, **p
        ),
        lambda block, *a: block(*a),
        lambda block: nhwc(block(nchw(x), torch.from_numpy(temb))),
        x,
        temb,
    )


def test_downsampling_pads_both_sides():
    x = noise(1, 7, 6, 8)
    check_block(
        TorchDownsample(8, use_conv=True, padding=1, name="op"),
        lambda **p: Downsample2D(8, padding=(1, 1), **p),
        lambda block, a: block(a),
        lambda block: nhwc(block(nchw(x))),
        x,
    )


@pytest.mark.parametrize("size", [None, (8, 10), (7, 9)], ids=str)
def test_upsampling(size):
    x = noise(1, 4, 5, 8)
    check_block(
        TorchUpsample(8, use_conv=True),
        lambda **p: Upsample2D(8, **p),
        lambda block, a: block(a, size),
        lambda block: nhwc(block(nchw(x), output_size=size)),
        x,
    )


def test_transformer_block():
    x, context = noise(2, 30, 32), noise(2, 7, 24, seed=1)
    check_block(
        TorchTransformerBlock(32, 4, 8, cross_attention_dim=24),
        lambda **p: BasicTransformerBlock(32, 24, 4, **p),
        lambda block, *a: block(*a),
        lambda block: block(
            torch.from_numpy(x), encoder_hidden_states=torch.from_numpy(context)
        ).numpy(),
        x,
        context,
    )


@pytest.fixture(scope="module")
def spatial_transformer():
    torch.manual_seed(0)
    reference = TorchTransformer(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=32,
        cross_attention_dim=24,
        use_linear_projection=True,
        norm_num_groups=8,
    )
    randomise(reference.eval())
    return reference, *convert_module(reference, lambda **p: Transformer2DModel(32, 24, 4, 8, **p))


def test_spatial_transformer(spatial_transformer):
    reference, graph, params = spatial_transformer
    x, context = noise(2, 6, 5, 32), noise(2, 7, 24, seed=1)
    got = jax.jit(lambda p: nnx.merge(graph, p)(x, context))(params)
    with torch.no_grad():
        want = reference(nchw(x), encoder_hidden_states=torch.from_numpy(context)).sample
    assert max_difference(got, nhwc(want)) < BLOCK_TOLERANCE


def test_gradients_of_a_block(spatial_transformer):
    """Every parameter's gradient, brought to PyTorch's names by the converter."""
    from tvt_jax.weights.names import params_to_torch

    reference, graph, params = spatial_transformer
    x, context, weight = noise(2, 6, 5, 32), noise(2, 7, 24, seed=1), noise(2, 6, 5, 32, seed=2)

    def loss(p):
        return jnp.mean(weight * nnx.merge(graph, p)(x, context))

    grads = params_to_torch(nnx.merge(graph, params), jax.jit(jax.grad(loss))(params))
    output = reference(nchw(x), encoder_hidden_states=torch.from_numpy(context)).sample
    (nchw(weight) * output).mean().backward()
    want = {name: p.grad.numpy() for name, p in reference.named_parameters()}
    assert set(grads) == set(want)
    for name in want:
        assert np.abs(want[name]).max() > 0, name
        assert max_difference(grads[name], want[name]) < BLOCK_TOLERANCE, name


def test_remat_changes_neither_value_nor_gradient():
    config = UNetConfig(
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=24,
        attention_head_dim=2,
        layers_per_block=1,
        norm_num_groups=4,
    )
    plain = init_network("unet", config, 0)
    remat = init_network("unet", config, 0, remat=True)
    latent, context = noise(1, 8, 8, 4), noise(1, 5, 24, seed=1)

    def loss(network):
        def of(p):
            return jnp.mean(network(p)(latent, jnp.array([1]), context) ** 2)

        return jax.jit(jax.value_and_grad(of))(network.params)

    (value, grads), (value_remat, grads_remat) = loss(plain), loss(remat)
    assert abs(float(value - value_remat)) < 1e-6
    differences = jax.tree.map(max_difference, grads, grads_remat)
    assert max(jax.tree.leaves(differences)) < 1e-6


@pytest.mark.slow
def test_bfloat16_stays_near_float32():
    network = init_network("unet", CONFIGS["SD 2.1"], 0)
    low = network.with_dtype(jnp.bfloat16)
    latent, context = noise(1, 8, 8, 4), noise(1, 7, 24, seed=1)
    timesteps = jnp.array([1])
    want, got = (
        jax.jit(lambda p, n=n: n(p)(latent, timesteps, context))(network.params)
        for n in (network, low)
    )
    assert got.dtype == jnp.float32
    # bfloat16 keeps 8 bits; the error must be of that order and not of a wrong cast.
    assert max_difference(got, want) < 0.05 * float(jnp.abs(want).max())
