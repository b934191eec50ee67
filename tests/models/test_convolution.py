"""The 3x3 convolution of a doubled image, against PyTorch's of the image that it doubles."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.support.parity import BLOCK_TOLERANCE, max_difference, nchw, nhwc, noise
from tvt_jax.benchmarks.complexity import multiply_adds
from tvt_jax.config import LoRAConfig
from tvt_jax.models.convolution import conv_on_doubled
from tvt_jax.models.layers import InitKeys, Upsample2D
from tvt_jax.models.lora import add_lora
from tvt_jax.models.target import compiling_for


def torch_conv_on_doubled(x, kernel):
    x = torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
    return torch.nn.functional.conv2d(x, kernel, padding=1)


@pytest.mark.parametrize(
    ("platform", "height", "width"), [("cpu", 13, 11), ("cpu", 5, 4), ("cpu", 1, 1), ("tpu", 5, 4)]
)
def test_values_and_gradients_are_pytorchs(platform, height, width):
    x, kernel = noise(2, height, width, 6), noise(3, 3, 6, 7, seed=1)
    weight = noise(2, 2 * height, 2 * width, 7, seed=2) / math.sqrt(height * width)
    with compiling_for(platform):
        got, pull = jax.vjp(conv_on_doubled, x, kernel)
        grads = pull(weight)
    torch_x = nchw(x).requires_grad_()
    torch_kernel = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).requires_grad_()
    want = torch_conv_on_doubled(torch_x, torch_kernel)
    want.backward(nchw(weight))
    assert max_difference(got, nhwc(want.detach())) < BLOCK_TOLERANCE
    assert max_difference(grads[0], nhwc(torch_x.grad)) < BLOCK_TOLERANCE
    of_kernel = torch_kernel.grad.numpy().transpose(2, 3, 1, 0)
    assert max_difference(grads[1], of_kernel) < BLOCK_TOLERANCE


def test_a_program_for_all_sizes_and_platforms():
    x, kernel = noise(2, 5, 4, 6), noise(3, 3, 6, 7, seed=1)
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, h, w, 6"), jnp.float32)
    export = jax.export.export(jax.jit(conv_on_doubled), platforms=("cpu", "cuda", "tpu"))
    want = torch_conv_on_doubled(nchw(x), torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
    assert max_difference(export(shape, kernel).call(x, kernel), nhwc(want)) < BLOCK_TOLERANCE


def test_it_takes_fewer_operations_and_is_counted_as_defined():
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 32, 32, 8), (3, 3, 8, 8))]
    defined = 9 * 64 * 64 * 8 * 8
    assert multiply_adds(conv_on_doubled, *shapes) == (defined, 0)
    # Another function: what was traced to be inspected is remembered.
    program = jax.jit(lambda *arrays: conv_on_doubled(*arrays)).lower(*shapes)
    assert program.cost_analysis()["flops"] < 2 * defined / 2


def test_bfloat16_sums_weights_before_it_rounds_them():
    """Against float64 on the same rounded arguments: the result is rounded, and little else."""
    x, kernel = (jnp.asarray(noise(*s), jnp.bfloat16) for s in ((1, 16, 16, 32), (3, 3, 32, 16)))
    want = torch_conv_on_doubled(
        nchw(np.asarray(x, np.float64)),
        torch.from_numpy(np.asarray(kernel, np.float64).transpose(3, 2, 0, 1).copy()),
    )
    got = conv_on_doubled(x, kernel)
    assert got.dtype == jnp.bfloat16
    deviation = np.sqrt(np.mean((np.asarray(got, np.float64) - nhwc(want)) ** 2)) / want.std()
    assert float(deviation) < 2**-8  # rounding of the result alone: 0.29 x 2**-8 to twice that


def test_an_adapter_of_an_upsampling_layer():
    """Output and gradients, against the base and the adapter in PyTorch."""
    layer = Upsample2D(6, dtype=jnp.float32, param_dtype=jnp.float32, rngs=InitKeys(0))
    add_lora(layer, LoRAConfig(rank=2, targets=("conv",)), InitKeys(1))
    layer.conv.lora_b[...] = noise(1, 1, 2, 6, seed=3)
    x, weight = noise(1, 3, 4, 6), noise(1, 6, 8, 6, seed=1)
    graph, adapters, base = nnx.split(layer, nnx.LoRAParam, ...)

    def loss(adapters):
        return jnp.sum(weight * nnx.merge(graph, adapters, base)(x))

    value, grads = jax.jit(jax.value_and_grad(loss))(nnx.as_pure(adapters))
    kernel, a, b = (
        torch.tensor(np.asarray(p[...]).transpose(3, 2, 0, 1)).requires_grad_()
        for p in (layer.conv.kernel, layer.conv.lora_a, layer.conv.lora_b)
    )
    narrow = torch_conv_on_doubled(nchw(x), a)
    adapter = layer.conv.lora_scale * torch.nn.functional.conv2d(narrow, b)
    out = torch_conv_on_doubled(nchw(x), kernel) + adapter
    out = out + torch.tensor(np.array(layer.conv.bias[...]))[None, :, None, None]
    want = (nchw(weight) * out).sum()
    want.backward()
    assert abs(float(value) - want.item()) < 1e-4  # a sum of 288 terms about 1
    for name, reference in (("lora_a", a), ("lora_b", b)):
        expected = reference.grad.numpy().transpose(2, 3, 1, 0)
        assert max_difference(grads["conv"][name], expected) < 1e-4, name
