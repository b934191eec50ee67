"""Layers whose arithmetic or initial weights differ from Flax's."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tvt_jax.config import VAE_D4
from tvt_jax.models.layers import GroupNorm, InitKeys, passing
from tvt_jax.models.vae import AutoencoderKL

PRECISION = dict(dtype=jnp.float32, param_dtype=jnp.float32, rngs=InitKeys(0))


@pytest.mark.parametrize("shape", [(2, 9, 8, 12), (2, 5, 12), (1, 1, 1, 12)])
@pytest.mark.parametrize("groups", [1, 3, 12])
def test_group_norm_is_pytorchs_even_around_a_large_mean(shape, groups):
    if shape[1:-1] == (1, 1) and groups == 12:
        pytest.skip("PyTorch refuses groups of one value")
    rng = np.random.default_rng(0)
    x = rng.normal(30.0, 1.0, shape)
    scale, bias = rng.normal(size=(2, shape[-1]))
    norm = GroupNorm(shape[-1], groups, 1e-6, **PRECISION)
    norm.scale[...], norm.bias[...] = scale, bias
    expected = torch.nn.functional.group_norm(
        torch.tensor(np.moveaxis(x, -1, 1)), groups, torch.tensor(scale), torch.tensor(bias), 1e-6
    )
    # float32 keeps a mean of 30 to 2e-6 of a deviation of 1.
    np.testing.assert_allclose(
        norm(jnp.asarray(x, jnp.float32)), np.moveaxis(expected.numpy(), 1, -1), atol=3e-5
    )


def test_group_norm_computes_in_float32_and_returns_its_dtype():
    norm = GroupNorm(4, 2, 1e-6, **{**PRECISION, "dtype": jnp.bfloat16})
    x = jnp.asarray(np.random.default_rng(1).normal(100.0, 1.0, (1, 8, 8, 4)), jnp.bfloat16)
    out = norm(x)
    assert out.dtype == jnp.bfloat16
    groups = np.asarray(out, np.float32).reshape(64, 2, 2)
    np.testing.assert_allclose(groups.std(axis=(0, 2)), 1.0, atol=1e-2)  # bfloat16 has 3 digits


@pytest.mark.parametrize("shape", [(1, 1, 6, 6), (1, 1, 3, 8), (1, 1, 8, 3), (3, 3, 5, 5)])
def test_layers_between_residual_branches_pass_on_what_they_read(shape):
    kernel = np.asarray(passing(InitKeys(0).params(), shape, jnp.float32))
    centre = kernel[shape[0] // 2, shape[1] // 2]
    smaller = min(shape[2:])
    gram = centre @ centre.T if shape[2] <= shape[3] else centre.T @ centre
    around = 0.1 / np.sqrt(np.prod(shape[:-1])) if shape[0] > 1 else 1e-6
    np.testing.assert_allclose(gram, np.eye(smaller), atol=3 * smaller * around)
    rest = np.abs(kernel).sum() - np.abs(centre).sum()
    assert (rest > 0) == (shape[0] > 1)


def test_a_fresh_vae_is_nearly_certain_of_its_latents():
    small = dict(block_out_channels=(8, 8, 8), norm_num_groups=4, latent_channels=4)
    vae = AutoencoderKL(type(VAE_D4)(**small, mid_block=False), **PRECISION)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    mean, logvar, _ = vae.encode(jnp.asarray(image))
    assert np.exp(0.5 * np.asarray(logvar)).mean() < 0.3 * np.asarray(mean).std()
