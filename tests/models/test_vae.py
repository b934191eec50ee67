"""The VAE family against diffusers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL as TorchVAE
from diffusers.models.attention_processor import Attention as TorchAttention
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
from tests.support.small_release import randomise, vae_d4
from tvt_jax.config import VAEConfig
from tvt_jax.files import write_json
from tvt_jax.models.layers import Downsample2D
from tvt_jax.models.networks import abstract_network, init_network
from tvt_jax.models.vae import Attention, sample_posterior
from tvt_jax.weights.model_folder import load_network, save_network
from tvt_jax.weights.names import params_to_torch, torch_tensors

GROUPS = 8


def torch_vae(widths, latent_channels=4, mid_attention=True):
    levels = len(widths)
    return TorchVAE(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=2,
        latent_channels=latent_channels,
        norm_num_groups=GROUPS,
        mid_block_add_attention=mid_attention,
    )


# The paper's family at a small width: name -> (PyTorch network, our configuration's extras)
FAMILY = {
    "VAE-D8": lambda: (torch_vae((16, 24, 32, 32)), {}),
    "VAE-D8C8": lambda: (torch_vae((16, 24, 32, 32), latent_channels=8), {}),
    "V1": lambda: (torch_vae((16, 24, 32)), {}),
    "no attention": lambda: (torch_vae((16, 24), mid_attention=False), {}),
    "VAE-D4": lambda: (vae_d4((32, 64, 64)), {"mid_block": False}),
}


@pytest.fixture(scope="module", params=FAMILY)
def networks(request, tmp_path_factory):
    torch.manual_seed(0)
    reference, extras = FAMILY[request.param]()
    randomise(reference.eval())
    folder = tmp_path_factory.mktemp("vae")
    reference.save_pretrained(folder)
    config = VAEConfig.from_json({**dict(reference.config), **extras})
    write_json(folder / "config.json", config.to_json())
    return reference, load_network(folder, "vae", jnp.float32, jnp.float32)


def test_encoder_moments(networks):
    reference, network = networks
    image = np.clip(noise(2, 32, 48, 3), -1, 1)
    mean, logvar, _ = jax.jit(lambda p, x: network(p).encode(x))(network.params, image)
    with torch.no_grad():
        posterior = reference.encode(nchw(image)).latent_dist
    assert max_difference(mean, nhwc(posterior.mean)) < NETWORK_TOLERANCE
    assert max_difference(logvar, nhwc(posterior.logvar)) < NETWORK_TOLERANCE


def test_decoder(networks):
    reference, network = networks
    latent = noise(2, 6, 8, network.config.latent_channels)
    got = jax.jit(lambda p, z: network(p).decode(z))(network.params, latent)
    with torch.no_grad():
        want = reference.decode(nchw(latent)).sample
    assert max_difference(got, nhwc(want)) < NETWORK_TOLERANCE


def test_decoder_gradients():
    """All parameters of the decoder, and the latent: stage 3 differentiates through it."""
    torch.manual_seed(0)
    reference = torch_vae((16, 24))
    randomise(reference.eval())
    config = VAEConfig.from_json(dict(reference.config))
    from tvt_jax.weights.names import params_from_torch
    from tvt_jax.weights.tensor_files import torch_tensors_as_numpy

    model = abstract_network("vae", config)
    graph = nnx.graphdef(model)
    tensors = torch_tensors_as_numpy(reference.state_dict(), "reference")
    params = params_from_torch(model, tensors, jnp.float32, "reference")
    latent, weight = noise(1, 6, 5, 4), noise(1, 12, 10, 3, seed=1)

    def loss(p, z):
        return jnp.mean(weight * nnx.merge(graph, p).decode(z))

    grads, latent_grad = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, latent)
    grads = params_to_torch(model, grads)
    torch_latent = nchw(latent).requires_grad_()
    (nchw(weight) * reference.decode(torch_latent).sample).mean().backward()
    assert max_difference(latent_grad, nhwc(torch_latent.grad)) < BLOCK_TOLERANCE
    compared = 0
    for name, parameter in reference.named_parameters():
        if parameter.grad is not None:
            assert max_difference(grads[name], parameter.grad.numpy()) < BLOCK_TOLERANCE, name
            compared += 1
    assert compared == sum(name.startswith(("decoder.", "post_quant_conv.")) for name in grads)


def test_mid_attention_block():
    torch.manual_seed(0)
    x = noise(2, 5, 7, 16)
    reference = TorchAttention(
        16, heads=1, dim_head=16, eps=1e-6, norm_num_groups=GROUPS, residual_connection=True,
        bias=True, _from_deprecated_attn_block=True,
    )  # fmt: skip
    randomise(reference.eval())
    graph, params = convert_module(reference, lambda **p: Attention(16, GROUPS, **p))
    with torch.no_grad():
        want = nhwc(reference(nchw(x)))
    assert max_difference(nnx.merge(graph, params)(x), want) < BLOCK_TOLERANCE


def test_downsampling_pads_right_and_bottom_only():
    x = noise(1, 6, 8, 4)
    conv = torch.nn.Conv2d(4, 4, 3, stride=2)

    class Reference(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

    graph, params = convert_module(Reference(), lambda **p: Downsample2D(4, padding=(0, 1), **p))
    with torch.no_grad():
        want = nhwc(conv(torch.nn.functional.pad(nchw(x), (0, 1, 0, 1))))
    assert max_difference(nnx.merge(graph, params)(x), want) < BLOCK_TOLERANCE


def test_skip_connections_reach_the_decoder(tmp_path):
    """Ablation S2: each level of the encoder changes the decoder's output, and the VAE is saved."""
    config = VAEConfig(block_out_channels=(8, 16, 16), norm_num_groups=8, skip_connections=True)
    network = init_network("vae", config, 0)
    encode = jax.jit(lambda p, x: network(p).encode(x))
    decode = jax.jit(lambda p, z, skips: network(p).decode(z, skips))
    mean, _, skips = encode(network.params, noise(1, 16, 24, 3))
    start = decode(network.params, mean, skips)
    assert max_difference(decode(network.params, mean, [0 * s for s in skips]), start) == 0.0
    module = network(network.params)  # the skips begin at zero: as after some training
    for conv in module.decoder.skip_convs:
        conv.kernel[...] = jnp.asarray(0.1 * noise(*conv.kernel.shape))
    network = dataclasses.replace(network, params=nnx.as_pure(nnx.state(module)))
    base = decode(network.params, mean, skips)
    assert base.shape == (1, 16, 24, 3)
    for level in range(len(skips)):
        changed = [skip + (i == level) * noise(*skip.shape) for i, skip in enumerate(skips)]
        assert max_difference(decode(network.params, mean, changed), base) > 1e-3, level

    model = abstract_network("vae", config)
    save_network(tmp_path, "vae", config, params_to_torch(model, network.params), "float32")
    again = load_network(tmp_path, "vae", jnp.float32, jnp.float32)
    assert again.config.skip_connections
    assert max_difference(decode(again.params, mean, skips), base) == 0.0


def test_d4_has_no_middle_section():
    config = VAEConfig(block_out_channels=(8, 16), norm_num_groups=8, mid_block=False)
    names = [t.name for t in torch_tensors(abstract_network("vae", config)).values()]
    assert names and not any("mid_block" in name for name in names)


def test_samples_have_the_moments_of_the_posterior():
    mean, logvar = jnp.full((1, 64, 64, 4), 3.0), jnp.full((1, 64, 64, 4), np.log(0.25))
    draws = sample_posterior(mean, logvar, jax.random.key(0))
    assert abs(float(draws.mean()) - 3.0) < 0.02
    assert abs(float(draws.std()) - 0.5) < 0.02
