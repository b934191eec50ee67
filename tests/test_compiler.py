"""XLA's options, as every program for the default backend is compiled with them."""

import platform

import jax
import jax.numpy as jnp
import pytest

from tvt_jax.memory import compile_to_fit
from tvt_jax.models.convolution import conv2d


@pytest.mark.skipif(platform.machine() != "x86_64", reason="where XLA was seen to use YNNPACK")
def test_on_a_cpu_weights_of_convolutions_are_not_packed_at_each_call():
    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def compiled(lowered):
        return compile_to_fit(lowered, "it", "use less")[0].as_text()

    lowered = jax.jit(convolve).lower(jnp.ones((1, 4, 4, 256)), jnp.ones((3, 3, 256, 256)))
    assert "ynn" in lowered.compile().as_text()  # else the option has no purpose any more
    assert "ynn" not in compiled(lowered)
    product = jax.jit(jnp.matmul).lower(jnp.ones((64, 256)), jnp.ones((256, 256)))
    assert "ynn" in compiled(product)


def test_on_a_cpu_kernels_are_transformed_in_their_turn():
    """Of eight wide layers, one or two transformed kernels are held at a time, not all of them."""

    def network(image, kernels):
        for kernel in kernels:
            image = conv2d(image, kernel)
        return image

    image = jnp.ones((1, 16, 32, 256))
    lowered = jax.jit(network).lower(image, [jnp.ones((3, 3, 256, 256))] * 8)
    program, _ = compile_to_fit(lowered, "it", "use less")
    transformed = 16 * 256 * 256 * 4
    assert program.memory_analysis().temp_size_in_bytes < 4 * transformed
    as_usual = lowered.compile().memory_analysis()
    assert as_usual.temp_size_in_bytes > 4 * transformed  # else the option has no purpose any more
