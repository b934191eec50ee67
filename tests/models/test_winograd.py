"""3x3 convolutions by Winograd's algorithm, against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.support.parity import BLOCK_TOLERANCE, max_difference, nchw, nhwc, noise
from tvt_jax.models.convolution import conv2d
from tvt_jax.models.target import compiling_for
from tvt_jax.models.winograd import winograd


def torch_conv(x, kernel):
    return torch.nn.functional.conv2d(x, kernel, padding=1)


def as_torch(kernel):
    return torch.from_numpy(np.array(kernel).transpose(3, 2, 0, 1).copy())


@pytest.mark.parametrize(
    "shape",
    [(2, 6, 4), (1, 2, 2), (1, 72, 64), (2, 34, 70), (3, 2, 1026)],
    ids=["all tiles at once", "one tile", "strips", "strips of one row", "one strip"],
)
def test_values(shape):
    x, kernel = noise(*shape, 5), noise(3, 3, 5, 7, seed=1)
    got = jax.jit(winograd)(x, kernel)
    assert max_difference(got, nhwc(torch_conv(nchw(x), as_torch(kernel)))) < BLOCK_TOLERANCE


def test_rounding_errors_are_those_of_a_convolution():
    """Against float64: at most three times the error of PyTorch's float32."""
    x, kernel = noise(1, 16, 16, 128), noise(3, 3, 128, 128, seed=1)
    want = nhwc(torch_conv(nchw(x).double(), as_torch(kernel).double()))
    ours, theirs = winograd(x, kernel), nhwc(torch_conv(nchw(x), as_torch(kernel)))
    errors = [np.sqrt(np.mean((np.asarray(y, np.float64) - want) ** 2)) for y in (ours, theirs)]
    assert errors[0] < 3 * errors[1]


@pytest.mark.parametrize("side", [16, 4])
def test_gradients_of_a_wide_convolution(side):
    x, kernel, weight = (
        noise(*shape, seed=i)
        for i, shape in enumerate([(2, side, side, 128), (3, 3, 128, 136), (2, side, side, 136)])
    )
    kernel /= 34  # the root of 9 x 128, so that outputs are about 1
    assert uses_winograd(x.shape, kernel.shape) == (side == 16)
    value, pull = jax.vjp(conv2d, x, kernel)
    of_x, of_kernel = pull(weight / 16)
    torch_x, torch_kernel = nchw(x).requires_grad_(), as_torch(kernel).requires_grad_()
    want = torch_conv(torch_x, torch_kernel)
    want.backward(nchw(weight / 16))
    assert max_difference(value, nhwc(want.detach())) < BLOCK_TOLERANCE
    assert max_difference(of_x, nhwc(torch_x.grad)) < BLOCK_TOLERANCE
    wanted = torch_kernel.grad.numpy().transpose(2, 3, 1, 0)
    assert max_difference(of_kernel, wanted) < BLOCK_TOLERANCE


def uses_winograd(x, kernel, dtype=jnp.float32, **options):
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in (x, kernel)]
    jaxpr = jax.make_jaxpr(lambda *arrays: conv2d(*arrays, **options))(*shapes)
    return "conv_general_dilated" not in str(jaxpr)


def test_it_is_for_wide_layers_on_a_cpu():
    wide, kernel = (1, 32, 32, 128), (3, 3, 128, 128)
    assert uses_winograd(wide, kernel)
    for x, k, options in (
        ((1, 32, 32, 64), (3, 3, 64, 128), {}),  # few channels
        ((1, 16, 16, 128), kernel, {}),  # few pixels
        ((1, 33, 32, 128), kernel, {}),  # no whole number of tiles
        (wide, (1, 1, 128, 128), {}),
        (wide, kernel, dict(strides=(2, 2))),
        (wide, kernel, dict(padding=((0, 1), (0, 1)))),
        (wide, kernel, dict(dtype=jnp.bfloat16)),
    ):
        assert not uses_winograd(x, k, **options), (x, k, options)
    for platform in ("gpu", "tpu", "none"):
        with compiling_for(platform):
            assert not uses_winograd(wide, kernel), platform
