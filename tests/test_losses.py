"""Losses against PyTorch, written from latent diffusion's formulas, and against autograd there.

Latent diffusion sums over the elements of an image where we average: the tests compute its numbers
as it does, and compare after division by the number of elements.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from flax import nnx

from tests.support.parity import PRECISION, convert_module, max_difference, nchw, nhwc, noise
from tests.support.torch_discriminator import nlayer_discriminator, parameters_of
from tvt_jax.config import DiscriminatorConfig
from tvt_jax.losses import (
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    kl_loss,
    reconstruction_loss,
    restoration_loss,
)
from tvt_jax.models.layers import Conv2d, InitKeys
from tvt_jax.models.networks import abstract_network
from tvt_jax.weights.names import params_from_torch, params_to_torch
from tvt_jax.weights.tensor_files import torch_tensors_as_numpy

TOLERANCE = 1e-5
CHANNELS = 16


def test_reconstruction():
    output, target = noise(2, 6, 5, 3), noise(2, 6, 5, 3, seed=1)

    def distance(a, b):  # a stand-in for LPIPS
        return jnp.mean(jnp.square(a - b), axis=(1, 2, 3))

    l1 = F.l1_loss(torch.from_numpy(output), torch.from_numpy(target)).item()
    mse = F.mse_loss(torch.from_numpy(output), torch.from_numpy(target)).item()
    loss, parts = reconstruction_loss(output, target)
    assert abs(loss - l1) < TOLERANCE and set(parts) == {"l1"}
    loss, parts = reconstruction_loss(output, target, distance, 0.7)
    assert abs(loss - (l1 + 0.7 * mse)) < TOLERANCE
    assert abs(parts["l1"] - l1) < TOLERANCE and abs(parts["lpips"] - mse) < TOLERANCE
    assert reconstruction_loss(output.astype(jnp.bfloat16), target)[0].dtype == jnp.float32


def test_restoration():
    output, target = noise(2, 32, 48, 3), noise(2, 32, 48, 3, seed=1)
    differences = [nchw(x) for x in (output, target)]
    mse = F.mse_loss(*differences).item()
    tone = F.l1_loss(*(F.avg_pool2d(x, 16) for x in differences)).item()

    def distance(a, b):  # a stand-in for LPIPS
        return jnp.mean(jnp.abs(a - b), axis=(1, 2, 3))

    loss, parts = restoration_loss(output, target)
    assert abs(loss - mse) < TOLERANCE and set(parts) == {"l2"}
    loss, parts = restoration_loss(output, target, distance, 0.3, 0.5, 2.0)
    lpips = np.abs(output - target).mean()
    assert abs(loss - (0.5 * mse + 2 * tone + 0.3 * lpips)) < TOLERANCE
    for name, value in {"l2": mse, "tone": tone, "lpips": lpips}.items():
        assert abs(parts[name] - value) < TOLERANCE, name


def test_kl():
    mean, logvar = noise(3, 4, 5, 2), noise(3, 4, 5, 2, seed=1)
    posterior = torch.distributions.Normal(
        torch.from_numpy(mean), torch.from_numpy(np.exp(0.5 * logvar))
    )
    prior = torch.distributions.Normal(0.0, 1.0)
    want = torch.distributions.kl_divergence(posterior, prior).sum((1, 2, 3)).mean().item()
    loss, parts = kl_loss(mean, logvar, image_elements=960)
    assert abs(parts["kl"] - want) < TOLERANCE * want
    assert abs(loss - want / 960) < TOLERANCE
    assert kl_loss(np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 2, 1)), 12)[0] == 0.0


def test_discriminator_loss_and_gradients():
    # Some beyond the hinge's corners, and some far out.
    real, fake = 2 * noise(2, 4, 4, 1), 2 * noise(2, 4, 4, 1, seed=1)
    real[0, 0, 0], fake[0, 0, 0] = -120.0, 120.0
    leaves = [torch.from_numpy(x.copy()).requires_grad_() for x in (real, fake)]
    want = 0.5 * (F.relu(1 - leaves[0]).mean() + F.relu(1 + leaves[1]).mean())
    want.backward()
    (loss, parts), grads = jax.value_and_grad(discriminator_loss, argnums=(0, 1), has_aux=True)(
        real, fake
    )
    assert abs(loss - want.item()) < TOLERANCE
    for grad, leaf in zip(grads, leaves, strict=True):
        assert max_difference(grad, leaf.grad.numpy()) < 1e-7
    assert parts["discriminator"] == loss
    assert abs(parts["logits_real"] - real.mean()) < TOLERANCE
    assert abs(parts["logits_fake"] - fake.mean()) < TOLERANCE


class Generator(torch.nn.Module):
    """Stands for a decoder: its features, then the last layer."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Conv2d(4, CHANNELS, 3, padding=1)
        self.conv_out = torch.nn.Conv2d(CHANNELS, 3, 3, padding=1)


class FlaxGenerator(nnx.Module):
    def __init__(self, **precision):
        self.body = Conv2d(4, CHANNELS, 3, padding=(1, 1), **precision)
        self.conv_out = Conv2d(CHANNELS, 3, 3, padding=(1, 1), **precision)


DISC_WEIGHT, KL_WEIGHT = 0.5, 1e-2
LATENT, TARGET = noise(2, 32, 32, 4), np.clip(noise(2, 32, 32, 3, seed=1), -1, 1)
ELEMENTS = TARGET[0].size
CRITIC = abstract_network("discriminator", DiscriminatorConfig(base_channels=8))


def latent_diffusion(generator, critic):
    """As its code does it: sums over elements, autograd twice at the last layer, the total's grad.

    Returns: (total loss, weight of the generator's loss, gradient of the latent); the parameters'
      gradients are left in `generator`.
    """
    x, z = nchw(TARGET), nchw(LATENT).requires_grad_()
    y = generator.conv_out(torch.tanh(generator.body(z)))
    rec = (x - y).abs().sum() / 2
    kl = 0.5 * torch.sum(z**2) / 2  # of a posterior with mean z and variance 1
    gen = -critic(y).mean()
    last = generator.conv_out.weight
    rec_norm, gen_norm = (
        torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (rec, gen)
    )
    weight = DISC_WEIGHT * torch.clamp(rec_norm / (gen_norm + 1e-4), 0.0, 1e4).detach()
    total = rec + KL_WEIGHT * kl + weight * gen
    total.backward()
    return total.item(), weight.item(), nhwc(z.grad)


@functools.cache
def our_step():
    """The same from two cotangents and one pass back, with means."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: FlaxGenerator(**PRECISION, rngs=InitKeys(None))))

    @jax.jit
    def step_fn(params, critic_params):
        critic = nnx.merge(nnx.graphdef(CRITIC), critic_params)

        def forward(params, latent):
            module = nnx.merge(graph, params)
            features = jnp.tanh(module.body(latent))
            return module.conv_out(features), features

        output, back, features = jax.vjp(forward, params, jnp.asarray(LATENT), has_aux=True)
        rec, rec_cotangent = jax.value_and_grad(lambda y: reconstruction_loss(y, TARGET)[0])(output)
        gen, gen_cotangent = jax.value_and_grad(lambda y: generator_loss(critic(y))[0])(output)
        kernel = nnx.merge(graph, params).conv_out.kernel
        weight = DISC_WEIGHT * adaptive_weight(features, kernel.shape, rec_cotangent, gen_cotangent)
        grads, latent_grad = back(rec_cotangent + weight * gen_cotangent)
        kl, kl_grad = jax.value_and_grad(lambda z: kl_loss(z, 0 * z, ELEMENTS)[0])(LATENT)
        loss = rec + KL_WEIGHT * kl + weight * gen
        return loss, weight, grads, latent_grad + KL_WEIGHT * kl_grad

    return step_fn


# name: (scale of the discriminator's last layer, whether the weight is then at its limit)
CASES = {
    "between the limits": (0.05, False),
    "clipped": (1e-3, True),
    "no gradient from the discriminator": (0.0, True),
}


@pytest.mark.parametrize("case", CASES)
def test_the_generators_loss_is_latent_diffusions(case):
    """Adaptive weight, total loss, and gradients of all parameters and the latent."""
    scale, clipped = CASES[case]
    torch.manual_seed(0)
    generator, critic = Generator(), nlayer_discriminator(base=8).train()
    with torch.no_grad():
        critic.main[-1].weight.mul_(scale)
    total, want_weight, want_latent_grad = latent_diffusion(generator, critic)
    graph, params = convert_module(generator, FlaxGenerator)
    tensors = torch_tensors_as_numpy(parameters_of(critic), "critic")
    critic_params = params_from_torch(CRITIC, tensors, jnp.float32, "critic")
    loss, weight, grads, latent_grad = our_step()(params, critic_params)

    limit = DISC_WEIGHT * 1e4 / ELEMENTS
    if clipped:
        np.testing.assert_allclose(weight, limit, rtol=1e-6)
    else:
        assert 0 < weight < 0.99 * limit
    np.testing.assert_allclose(weight, want_weight / ELEMENTS, rtol=TOLERANCE)
    np.testing.assert_allclose(loss, total / ELEMENTS, rtol=TOLERANCE, atol=TOLERANCE)
    named = params_to_torch(nnx.merge(graph, params), grads)
    want = {name: p.grad.numpy() / ELEMENTS for name, p in generator.named_parameters()}
    assert set(named) == set(want)
    for name, gradient in want.items():
        largest = np.abs(gradient).max()
        assert max_difference(named[name], gradient) < TOLERANCE * max(1.0, largest), name
        assert max_difference(named[name], gradient) < 1e-4 * largest, name
    assert max_difference(latent_grad, want_latent_grad / ELEMENTS) < TOLERANCE


def test_the_adaptive_weight_has_no_gradient_and_is_float32():
    features, cotangents = noise(1, 8, 8, 4), noise(2, 1, 8, 8, 3)

    def weight(h, a, b):
        return adaptive_weight(h, (3, 3, 4, 3), a, b)

    assert weight(features.astype(jnp.bfloat16), *cotangents).dtype == jnp.float32
    for grad in jax.grad(weight, argnums=(0, 1, 2))(features, *cotangents):
        assert not np.any(grad)
