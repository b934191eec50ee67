"""Whether a program fits the memory, and what is said where it does not."""

import jax
import jax.numpy as jnp
import pytest

from tvt_jax import memory
from tvt_jax.errors import UserError


def test_the_share_of_a_gpu_is_told(monkeypatch):
    program = jax.jit(jnp.sort).lower(jnp.ones(2**18))
    monkeypatch.setattr(memory, "free_memory", lambda: 2**10)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match=r"free \(of 75% of the GPU; XLA_CLIENT_MEM_FRACTION"):
        memory.compile_to_fit(program, "it", "use less")
