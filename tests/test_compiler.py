"""XLA's options, as every program for the default backend is compiled with them."""

import platform

import jax
import jax.numpy as jnp
import pytest

from tvt_jax.memory import compile_to_fit


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
