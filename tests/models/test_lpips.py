"""LPIPS against the package `lpips` on the same real weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.support.lpips_package import reference_lpips
from tests.support.parity import nchw, nhwc, noise
from tvt_jax.config import LPIPS_NETS, LPIPSConfig
from tvt_jax.models.layers import InitKeys
from tvt_jax.models.lpips import LPIPS
from tvt_jax.weights.lpips import load_lpips
from tvt_jax.weights.model_folder import abstract_network

TOLERANCE = 1e-5  # on distances of about 0.5


def images(height, width, batch=2):
    """Smooth waves, and the same with noise; [B, H, W, 3] in [-1, 1]."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = np.stack([np.sin(x / (4 + c) + y / (9 - c)) for c in range(3)], -1)
    waves = np.stack([waves * (1 - 0.3 * i) for i in range(batch)])
    noisy = np.clip(waves + 0.3 * noise(*waves.shape), -1, 1)
    return noisy.astype(np.float32), waves.astype(np.float32)


@pytest.fixture(scope="module", params=LPIPS_NETS)
def networks(request):
    return reference_lpips(request.param), load_lpips(request.param)


def test_distances(networks):
    """An odd size: the poolings drop rows."""
    reference, network = networks
    image, target = images(67, 53)
    got = jax.jit(lambda p, a, b: network(p)(a, b))(network.params, image, target)
    with torch.no_grad():
        want = reference(nchw(image), nchw(target)).flatten().numpy()
    assert got.dtype == jnp.float32 and want.min() > 0.1
    np.testing.assert_allclose(got, want, atol=TOLERANCE)
    assert float(network(network.params)(target[:1], target[:1])[0]) == 0.0


def test_gradients(networks):
    reference, network = networks
    image, target = images(48, 40)
    loss = jax.grad(lambda a: jnp.mean(network(network.params)(a, target)))
    got = np.asarray(jax.jit(loss)(image))
    leaf = nchw(image).requires_grad_()
    reference(leaf, nchw(target)).mean().backward()
    want = nhwc(leaf.grad)
    # Of the largest, which is about 1e-3.
    assert np.abs(got - want).max() < TOLERANCE * np.abs(want).max() * 10
    assert np.abs(got - want).max() < TOLERANCE


def test_gradients_where_all_features_are_zero():
    """PyTorch's and the plain formula's are not a number there."""
    config = LPIPSConfig((4, 4), (1, 1), (3, 3), (1, 1), (1, 1), (0, 2))
    model = LPIPS(config, rngs=InitKeys(0))
    for layer in (model.features[0], model.features[3]):
        layer.bias[...] = jnp.full_like(layer.bias, -100.0)
    image, target = noise(1, 8, 8, 3), noise(1, 8, 8, 3, seed=1)
    assert not np.any(model._trunk(jnp.asarray(image))[0])
    value, grad = jax.value_and_grad(lambda a: model(a, target)[0])(image)
    assert value == 0.0 and np.all(np.isfinite(grad))

    # Half of the positions without features.
    model.features[0].bias[...] = jnp.full_like(model.features[0].bias, -0.7)
    features = model._trunk(jnp.asarray(image))[0]
    empty = np.all(np.asarray(features) == 0, axis=-1)
    assert 0 < empty.sum() < empty.size
    grad = jax.grad(lambda a: model(a, target)[0])(image)
    assert np.all(np.isfinite(grad)) and np.any(grad)


def test_bfloat16_trunk(networks):
    """bfloat16 keeps 8 bits; the norms and the distance stay float32."""
    _, network = networks
    image, target = images(48, 40)
    exact = network(network.params)(image, target)
    rough = network.with_dtype(jnp.bfloat16)
    got = jax.jit(lambda p, a, b: rough(p)(a, b))(rough.params, image, target)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, exact, rtol=0.02)
    assert np.abs(got - exact).max() > TOLERANCE  # it was bfloat16


def test_rematerialisation_changes_nothing():
    image, target = images(32, 32, batch=1)
    config = LPIPSConfig((8, 8), (2, 1), (3, 3), (1, 1), (1, 1), (0, 2))
    graph, params = nnx.split(LPIPS(config, rngs=InitKeys(0)))
    plain, again = (
        jax.jit(jax.grad(lambda a, g=g: nnx.merge(g, params)(a, target)[0]))(image)
        for g in (graph, nnx.graphdef(abstract_network("lpips", config, remat=True)))
    )
    np.testing.assert_allclose(again, plain, atol=1e-8)


@pytest.mark.parametrize(("net", "side"), [("vgg16", 16), ("alexnet", 31)])
def test_images_that_are_too_small(net, side):
    model = abstract_network("lpips", LPIPS_NETS[net])

    def distance(side):
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        return nnx.eval_shape(lambda m, a: m(a, a), model, image)

    assert distance(side).shape == (1,)
    with pytest.raises(ValueError, match=f"{side - 1}x{side - 1} px are too small"):
        distance(side - 1)
