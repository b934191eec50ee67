"""Every backend against the plain formula in float64, values and gradients."""

import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.parity import max_difference, noise
from tvt_jax.models import attention
from tvt_jax.models.attention import dot_product_attention
from tvt_jax.models.target import compiling_for, target_device
from tvt_jax.parallel import preferred_dtype

TOLERANCE = 1e-5


def reference(query, key, value):
    """The formula in float64 numpy."""
    q, k, v = (np.moveaxis(np.asarray(x, np.float64), 2, 1) for x in (query, key, value))
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.moveaxis(weights / weights.sum(-1, keepdims=True) @ v, 1, 2)


def inputs(num_queries, num_keys, heads=2, width=16, batch=2):
    return (
        3 * noise(batch, num_queries, heads, width, seed=1),
        noise(batch, num_keys, heads, width, seed=2),
        noise(batch, num_keys, heads, width, seed=3),
    )


@pytest.mark.parametrize("backend", ["plain", "blockwise"])
@pytest.mark.parametrize(
    ("num_queries", "num_keys"),
    [(256, 512), (1, 1), (300, 77), (257, 513), (700, 1030)],
    ids=str,
)
def test_equals_the_formula(backend, num_queries, num_keys):
    qkv = inputs(num_queries, num_keys)
    got = dot_product_attention(*qkv, backend=backend)
    assert max_difference(got, reference(*qkv)) < TOLERANCE


def test_large_scores_do_not_overflow():
    query, key, value = inputs(300, 600)
    got = dot_product_attention(100 * query, key, value, backend="blockwise")
    # Scores reach 1500, where float32 resolves 1.2e-4: that much of each weight is uncertain.
    assert max_difference(got, reference(100 * query, key, value)) < 5e-4


@pytest.mark.parametrize(("num_queries", "num_keys"), [(300, 77), (512, 600)], ids=str)
def test_blockwise_gradients_equal_those_of_the_formula(num_queries, num_keys):
    qkv = inputs(num_queries, num_keys)
    weight = noise(2, num_queries, 2, 16, seed=4)

    def loss(backend, q, k, v):
        return jnp.sum(weight * dot_product_attention(q, k, v, backend=backend))

    got = jax.grad(loss, argnums=(1, 2, 3))("blockwise", *qkv)
    with jax.enable_x64(True):
        exact = jax.grad(loss, argnums=(1, 2, 3))("plain", *(np.float64(x) for x in qkv))
    for ours, want in zip(got, exact, strict=True):
        assert max_difference(ours, want) < TOLERANCE * max(1.0, float(np.abs(want).max()))


def test_blockwise_gradients_in_bfloat16_are_finite():
    query, key, value = (jnp.asarray(x, jnp.bfloat16) for x in inputs(300, 600))

    def loss(q):
        out = dot_product_attention(q, key, value, backend="blockwise")
        return jnp.sum(out.astype(jnp.float32) ** 2)

    grad = jax.grad(loss)(query)
    assert grad.dtype == jnp.bfloat16 and bool(jnp.isfinite(grad).all())


def _temporary_bytes(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def test_sixteen_thousand_tokens_never_build_the_score_matrix():
    shape = (1, 16_384, 5, 64)
    score_matrix = 16_384**2 * 5 * 4
    forward = _temporary_bytes(dot_product_attention, shape, shape, shape)
    backward = _temporary_bytes(
        jax.grad(lambda q, k, v: dot_product_attention(q, k, v).sum(), argnums=(0, 1, 2)),
        shape,
        shape,
        shape,
    )
    assert forward < score_matrix / 20
    assert backward < score_matrix / 10


def test_causal_hides_the_future():
    query, key, value = inputs(6, 6)
    got = dot_product_attention(query, key, value, causal=True)
    for position in range(6):
        past = slice(0, position + 1)
        want = reference(query[:, position : position + 1], key[:, past], value[:, past])
        assert max_difference(got[:, position : position + 1], want) < TOLERANCE


A100, H100, T4 = ("gpu", "8.0"), ("gpu", "9.0"), ("gpu", "7.5")
BF16, F16, F32 = jnp.bfloat16, jnp.float16, jnp.float32


@pytest.mark.parametrize(
    ("device", "dtype", "shape", "backend"),
    [
        (("cpu", ""), F32, (1, 4096, 5, 64), "blockwise"),
        (("cpu", ""), F32, (4, 1024, 5, 64), "plain"),
        (A100, BF16, (1, 4096, 5, 64), "cudnn"),
        (A100, F16, (1, 4096, 5, 64), "cudnn"),
        (A100, F32, (1, 4096, 5, 64), "blockwise"),
        # VAE-D8 has one head of 512 channels; cuDNN takes 128, on Hopper 256.
        (H100, BF16, (1, 4096, 1, 512), "blockwise"),
        (H100, BF16, (1, 4096, 1, 256), "cudnn"),
        (A100, BF16, (1, 4096, 1, 256), "blockwise"),
        (A100, BF16, (1, 4096, 1, 20), "blockwise"),  # no multiple of 8
        (T4, F16, (1, 4096, 5, 64), "blockwise"),
        (("gpu", ""), BF16, (1, 4096, 5, 64), "blockwise"),  # of AMD
        (("tpu", ""), BF16, (1, 4096, 5, 64), "pallas"),
        # Short sequences, but 5 GiB of scores in a batch.
        (("tpu", ""), BF16, (128, 1024, 10, 64), "pallas"),
        (A100, BF16, (128, 1024, 10, 64), "cudnn"),
        (("cpu", ""), F32, (128, 1024, 10, 64), "blockwise"),
        (("none", ""), F32, (128, 4096, 10, 64), "plain"),
    ],
    ids=str,
)
def test_the_backend_follows_from_device_dtype_and_shape(
    device, dtype, shape, backend, monkeypatch
):
    chosen = []
    monkeypatch.setattr(attention, "_plain", lambda *a: chosen.append("plain"))
    monkeypatch.setattr(attention, "_pallas_flash", lambda *a: chosen.append("pallas"))
    monkeypatch.setattr(attention, "_blockwise", lambda *a: chosen.append("blockwise"))
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *a, **k: chosen.append("cudnn"))
    with compiling_for(*device):
        dot_product_attention(*[jax.ShapeDtypeStruct(shape, dtype)] * 3)
    assert chosen == [backend]


def test_without_a_target_the_device_at_hand_decides(monkeypatch):
    assert target_device() == ("cpu", "")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for capability in ("9.0", "gfx90a"):
        device = types.SimpleNamespace(compute_capability=capability)
        monkeypatch.setattr(jax, "devices", lambda device=device: [device])
        assert target_device() == ("gpu", "9.0" if capability == "9.0" else "")


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        (("cpu", ""), "float32"), (T4, "float32"), (A100, "bfloat16"), (("tpu", ""), "bfloat16"),
    ],
    ids=str,
)  # fmt: skip
def test_the_preferred_dtype_is_one_that_the_device_has(device, dtype):
    with compiling_for(*device):
        assert preferred_dtype() == dtype


def test_an_accelerator_computes_several_heads_at_a_time():
    qkv = inputs(300, 530, heads=3)

    def loss(backend, query):
        return jnp.sum(dot_product_attention(query, *qkv[1:], backend=backend) ** 2)

    with compiling_for("gpu", "7.5"):
        got = dot_product_attention(*qkv, backend="blockwise")
        gradient = jax.grad(lambda query: loss("blockwise", query))(qkv[0])
    assert max_difference(got, reference(*qkv)) < TOLERANCE
    want = jax.grad(lambda query: loss("plain", query))(qkv[0])
    assert max_difference(gradient, want) < TOLERANCE * float(jnp.abs(want).max())


def test_the_tpu_kernel_computes_the_same():
    from jax.experimental.pallas import tpu as pltpu

    for lengths in ((200, 77), (520, 1030)):  # of one block, and of several
        qkv = inputs(*lengths, width=64, batch=1, heads=1)
        with pltpu.force_tpu_interpret_mode():
            got = dot_product_attention(*qkv, backend="pallas")
        assert max_difference(got, reference(*qkv)) < TOLERANCE


SHARDED = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_default_matmul_precision", "highest")
from jax.experimental.pallas import tpu as pltpu
from tests.models.test_attention import TOLERANCE, inputs, reference
from tests.support.parity import max_difference
from tvt_jax.config import MeshConfig
from tvt_jax.models.attention import dot_product_attention
from tvt_jax.parallel import batch_sharding, make_mesh
mesh = make_mesh(MeshConfig(2, 2))
for batch in (4, 3):  # samples that the devices can share, and some of which they share queries
    qkv = inputs(201, 77, width=64, batch=batch, heads=1)
    placed = jax.device_put(qkv, batch_sharding(mesh)) if batch == 4 else qkv
    for backend in ("pallas", "blockwise"):
        with pltpu.force_tpu_interpret_mode(), jax.set_mesh(mesh):
            got = jax.jit(lambda *a: dot_product_attention(*a, backend=backend))(*placed)
        assert max_difference(got, reference(*qkv)) < TOLERANCE
"""


def test_each_device_computes_its_samples_or_queries():
    root = Path(__file__).parent.parent.parent
    subprocess.run([sys.executable, "-c", SHARDED], check=True, cwd=root)


def test_unknown_backends_are_refused():
    with pytest.raises(ValueError, match="flashy"):
        dot_product_attention(*inputs(2, 2), backend="flashy")
