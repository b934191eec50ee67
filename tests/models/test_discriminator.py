"""The discriminator against PyTorch, from its first weights on."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.support.parity import BLOCK_TOLERANCE, max_difference, nchw, nhwc, noise
from tests.support.torch_discriminator import nlayer_discriminator, parameters_of
from tvt_jax.config import DiscriminatorConfig
from tvt_jax.models.networks import abstract_network, init_network
from tvt_jax.weights.names import params_from_torch, params_to_torch
from tvt_jax.weights.tensor_files import torch_tensors_as_numpy

SMALL = DiscriminatorConfig(base_channels=8)


@pytest.fixture(scope="module")
def networks():
    """(PyTorch module in training mode, abstract module here, the same parameters)."""
    torch.manual_seed(0)
    reference = nlayer_discriminator(base=8).train()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif parameter.ndim == 4:
                parameter.mul_(5)  # away from the start, where all logits are alike
    model = abstract_network("discriminator", SMALL)
    tensors = torch_tensors_as_numpy(parameters_of(reference), "reference")
    return reference, model, params_from_torch(model, tensors, jnp.float32, "reference")


def test_logits_use_the_statistics_of_the_batch(networks):
    reference, model, params = networks
    image = noise(3, 70, 62, 3)
    call = jax.jit(lambda p, x: nnx.merge(nnx.graphdef(model), p)(x))
    got, want = call(params, image), nhwc(reference(nchw(image)))
    assert got.dtype == jnp.float32 and want.std() > 0.1
    assert max_difference(got, want) < BLOCK_TOLERANCE
    alone = call(params, image[:1])
    assert max_difference(alone, got[:1]) > 1e-3


def test_gradients(networks):
    """Of the image, as the generator gets it, and of all parameters."""
    reference, model, params = networks
    image, weight = noise(2, 40, 40, 3), noise(2, 3, 3, 1, seed=1)

    def loss(p, x):
        return jnp.mean(weight * nnx.merge(nnx.graphdef(model), p)(x))

    grads, image_grad = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, image)
    leaf = nchw(image).requires_grad_()
    reference.zero_grad()
    (nchw(weight) * reference(leaf)).mean().backward()
    assert max_difference(image_grad, nhwc(leaf.grad)) < 1e-5
    grads = params_to_torch(model, grads)
    assert len(grads) == len(list(reference.parameters()))
    for name, parameter in reference.named_parameters():
        assert max_difference(grads[name], parameter.grad.numpy()) < 1e-5, name


def test_bfloat16(networks):
    _, model, params = networks
    image = noise(2, 40, 40, 3)
    rough = abstract_network("discriminator", SMALL, dtype=jnp.bfloat16)
    call = jax.jit(lambda graph, p, x: nnx.merge(graph, p)(x), static_argnums=0)
    exact, got = (call(nnx.graphdef(m), params, image) for m in (model, rough))
    assert got.dtype == jnp.float32
    assert 1e-5 < max_difference(got, exact) < 0.05


def test_size():
    model = abstract_network("discriminator", DiscriminatorConfig())
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model)))
    assert count == 2_765_633
    for side, patches in ((128, 14), (256, 30), (512, 62)):
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        assert nnx.eval_shape(lambda m, x: m(x), model, image).shape == (1, patches, patches, 1)


def test_initial_weights_have_pytorchs_distribution():
    """Moments of every parameter, and the range of those that are uniform."""
    model = abstract_network("discriminator", DiscriminatorConfig())
    network = init_network("discriminator", DiscriminatorConfig(), 3)
    ours = params_to_torch(model, network.params)
    torch.manual_seed(0)
    reference = parameters_of(nlayer_discriminator())
    assert set(ours) == set(reference)
    for name, tensor in reference.items():
        got, want = ours[name], tensor.numpy()
        assert got.shape == want.shape
        if name in ("main.0.bias", "main.11.bias"):
            bound = 1 / math.sqrt(16 * (3 if name == "main.0.bias" else 512))
            assert 0 < np.abs(got).max() <= bound and np.abs(want).max() <= bound
            if got.size > 1:
                assert np.abs(got).max() > 0.9 * bound
        elif name.endswith("bias"):
            assert not got.any() and not want.any()
        else:
            mean = 1.0 if got.ndim == 1 else 0.0
            error = 4 * 0.02 / math.sqrt(got.size)  # four standard errors
            assert abs(got.mean() - mean) < error and abs(want.mean() - mean) < error, name
            assert abs(got.std() - 0.02) < error and abs(want.std() - 0.02) < error, name


def test_impossible_configurations():
    with pytest.raises(ValueError, match="num_layers = 0"):
        DiscriminatorConfig(num_layers=0).validate()
