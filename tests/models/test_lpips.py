"""LPIPS against the package `lpips` on the same real weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.support.lpips_package import reference_lpips
from tests.support.parity import max_difference, nchw, nhwc, noise
from tvt_jax.config import LPIPS_NETS, LPIPSConfig
from tvt_jax.models.layers import InitKeys
from tvt_jax.models.lpips import LPIPS, MaxPool2d, _unit
from tvt_jax.models.networks import abstract_network
from tvt_jax.models.target import compiling_for
from tvt_jax.weights.lpips import load_lpips

TOLERANCE = 1e-5  # on distances of about 0.5
TINY = LPIPSConfig((8, 8), (2, 1), (3, 3), (1, 1), (1, 1), (0, 2))


def images(height, width, batch=2):
    """Smooth waves, and the same with noise; [B, H, W, 3] in [-1, 1]."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = np.stack([np.sin(x / (4 + c) + y / (9 - c)) for c in range(3)], -1)
    waves = np.stack([waves * (1 - 0.3 * i) for i in range(batch)])
    noisy = np.clip(waves + 0.3 * noise(*waves.shape), -1, 1)
    return noisy.astype(np.float32), waves.astype(np.float32)


# An odd size, of which the poolings drop rows and columns.
IMAGE, TARGET = images(51, 37)


@pytest.mark.parametrize("net", LPIPS_NETS)
def test_distances_and_gradients(net):
    reference, network = reference_lpips(net), load_lpips(net)

    def mean(image, params):
        distances = network(params)(image, TARGET)
        return jnp.mean(distances), distances

    grad, got = jax.jit(jax.grad(mean, has_aux=True))(IMAGE, network.params)
    leaf = nchw(IMAGE).requires_grad_()
    distances = reference(leaf, nchw(TARGET)).flatten()
    distances.mean().backward()
    want, want_grad = distances.detach().numpy(), nhwc(leaf.grad)
    assert got.dtype == jnp.float32 and want.min() > 0.1
    np.testing.assert_allclose(got, want, atol=TOLERANCE)
    largest = np.abs(want_grad).max()  # about 1e-3
    assert max_difference(grad, want_grad) < min(TOLERANCE, 1e-4 * largest)


def test_bfloat16_trunk():
    """bfloat16 keeps 8 bits; the distance stays float32."""
    network = load_lpips("vgg16")
    call = jax.jit(lambda graph, p, a, b: nnx.merge(graph, p)(a, b), static_argnums=0)
    exact, got = (
        call(n.graph, n.params, IMAGE[:1, :32, :32], TARGET[:1, :32, :32])
        for n in (network, network.with_dtype(jnp.bfloat16))
    )
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, exact, rtol=0.01)
    assert max_difference(got, exact) > TOLERANCE  # it was bfloat16


def test_equal_images_have_no_distance():
    graph, params = nnx.split(LPIPS(TINY, rngs=InitKeys(0)))
    distances = jax.jit(lambda a: nnx.merge(graph, params)(a, a))(IMAGE)
    np.testing.assert_array_equal(distances, np.zeros(2))


def test_features_are_divided_by_their_norm_in_float32():
    """At zero the plain formula's gradient is not a number."""
    features = noise(2, 3, 5, 4)
    features[0] = 0.0
    got, back = jax.vjp(_unit, jnp.asarray(features))
    norm = np.linalg.norm(features, axis=-1, keepdims=True)
    assert max_difference(got, features / (norm + 1e-10)) < 1e-6
    assert np.all(np.isfinite(back(jnp.ones_like(got))[0]))
    assert _unit(features.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize(("bias", "all_empty"), [(-100.0, True), (-0.7, False)])
def test_gradients_where_features_are_zero(bias, all_empty):
    """Of all positions, and of some."""
    model = LPIPS(TINY, rngs=InitKeys(0))
    for layer in model.features:
        if hasattr(layer, "bias"):
            layer.bias[...] = jnp.full_like(layer.bias, bias)
    graph, params = nnx.split(model)
    image, target = noise(1, 16, 16, 3), noise(1, 16, 16, 3, seed=1)

    @jax.jit
    def run(image):
        model = nnx.merge(graph, params)
        value, grad = jax.value_and_grad(lambda a: model(a, target)[0])(image)
        return value, grad, model._trunk(image)[0]

    value, grad, features = run(image)
    empty = np.all(np.asarray(features) == 0, axis=-1)
    assert empty.all() if all_empty else 0 < empty.sum() < empty.size
    assert np.all(np.isfinite(grad)) and np.any(grad) != all_empty
    assert (value == 0) == all_empty


def test_rematerialisation_changes_nothing():
    graph, params = nnx.split(LPIPS(TINY, rngs=InitKeys(0)))
    plain, again = (
        jax.jit(jax.grad(lambda a, g=g: nnx.merge(g, params)(a, TARGET)[0]))(IMAGE)
        for g in (graph, nnx.graphdef(abstract_network("lpips", TINY, remat=True)))
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


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("window", [2, 3])
def test_pooling_and_its_gradient(platform, window):
    """On a CPU it is computed in another way; sides may be odd."""
    x, weight = noise(2, 9, 12, 5), noise(2, (9 - window) // 2 + 1, (12 - window) // 2 + 1, 5)
    with compiling_for(platform):
        value, pull = jax.vjp(MaxPool2d(window), x)
    torch_x = nchw(x).requires_grad_()
    want = torch.nn.functional.max_pool2d(torch_x, window, 2)
    want.backward(nchw(weight))
    np.testing.assert_array_equal(value, nhwc(want.detach()))
    assert (
        max_difference(pull(weight)[0], nhwc(torch_x.grad)) < 1e-6
    )  # of overlapping windows: sums
