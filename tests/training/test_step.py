"""What is done with a stage's gradients, on a toy stage whose update is known."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType

from tests.support.parity import max_difference, noise
from tvt_jax.config import MeshConfig, OptimConfig, TrainConfig
from tvt_jax.parallel import gathered, make_mesh
from tvt_jax.training.stage import Stage
from tvt_jax.training.step import init_state, learning_rate, make_step

SGD = OptimConfig(learning_rate=0.1, warmup_steps=0)


PARAMS = {"left": {"w": np.array([1.0, 2.0, 3.0], np.float32)}, "right": {"w": np.float32([0.5])}}
FROZEN = {"bias": np.float32(0.25)}


def toy_stage(**changes) -> Stage:
    """Two networks of one vector each; a batch with a value over 100 has infinite gradients."""

    def gradients(params, frozen, batch, key, step):
        def loss(p):
            error = batch["x"] @ p["left"]["w"] + p["right"]["w"].sum() - frozen["bias"]
            return jnp.mean(jnp.where(batch["x"][:, 0] > 100, jnp.inf, 1.0) * error**2)

        value, grads = jax.value_and_grad(loss)(params)
        return grads, {"loss": value}

    values = dict(
        optim={"left": SGD, "right": SGD},
        gradients=gradients,
        preview=None,
        exports=("left",),
        export=None,
        result=Path("model"),
        trained={"left": ("w",), "right": ("w",)},
    )
    return Stage(**{**values, **changes})


def run(batches, stage=None, **changes):
    """Steps through batches [B, 3]; returns the states and metrics after each."""
    stage = stage or toy_stage()
    config = TrainConfig(steps=100, **changes)
    step = jax.jit(make_step(stage, config, make_mesh(MeshConfig())))
    state = init_state(stage, jax.tree.map(jnp.asarray, PARAMS), config)
    states, metrics = [state], []
    for x in batches:
        state, values = step(state, FROZEN, {"x": jnp.asarray(x)}, jax.random.key(0))
        states.append(state)
        metrics.append(values)
    assert step._cache_size() == 1
    return states, metrics


GOOD = [noise(8, 3, seed=seed) for seed in range(4)]
BAD = np.full((8, 3), 1000.0, np.float32)


def test_parts_of_a_batch_add_up_to_the_whole():
    whole, _ = run(GOOD)
    for parts in (2, 4, 8):
        split, metrics = run(GOOD, accumulate=parts)
        assert max_difference(split[-1].params["left"]["w"], whole[-1].params["left"]["w"]) < 1e-6
        assert np.isfinite(metrics[-1]["loss"])


@pytest.mark.parametrize("bad", [BAD, np.full((8, 3), np.nan, np.float32)], ids=["inf", "nan"])
def test_an_update_that_is_not_finite_is_skipped_and_counted(bad):
    states, metrics = run([GOOD[0], bad, bad, GOOD[1]], ema_decay=0.9)
    for after in (2, 3):
        for name in ("params", "opt_state", "ema"):
            jax.tree.map(
                np.testing.assert_array_equal,
                getattr(states[after], name),
                getattr(states[1], name),
            )
    assert [int(m["skipped_in_row"]) for m in metrics] == [0, 1, 2, 0]
    assert [int(m["skipped"]) for m in metrics] == [0, 1, 2, 2]
    assert [int(s.step) for s in states] == [0, 1, 2, 3, 4]
    # What follows is what would have followed without the bad batches.
    clean, _ = run([GOOD[0], GOOD[1]], ema_decay=0.9)
    jax.tree.map(np.testing.assert_array_equal, states[-1].params, clean[-1].params)
    jax.tree.map(np.testing.assert_array_equal, states[-1].opt_state, clean[-1].opt_state)


def test_one_network_that_is_not_finite_holds_back_the_other():
    """A generator must not run ahead of a discriminator whose update was dropped."""

    def gradients(params, frozen, batch, key, step):
        grads = {"left": {"w": jnp.ones(3)}, "right": {"w": jnp.array([jnp.nan])}}
        return grads, {"loss": jnp.float32(1.0)}

    states, metrics = run([GOOD[0]], stage=toy_stage(gradients=gradients))
    jax.tree.map(np.testing.assert_array_equal, states[1].params, states[0].params)
    assert int(metrics[0]["skipped"]) == 1


def test_the_average_follows_its_formula():
    states, _ = run(GOOD, ema_decay=0.75)
    average = np.array([1.0, 2.0, 3.0])
    for state in states[1:]:
        average = 0.75 * average + 0.25 * np.asarray(state.params["left"]["w"])
        assert max_difference(state.ema["left"]["w"], average) < 1e-6
    # Only what is exported is averaged.
    assert set(states[-1].ema) == {"left"} and states[-1].best["left"] is states[-1].ema["left"]
    assert states[-1].best["right"] is states[-1].params["right"]
    assert run(GOOD[:1])[0][-1].ema == {}


def test_clipping_limits_the_global_norm():
    """With Adam's normalisation off the scale, the first moment tells what arrived."""
    clipped = dataclasses.replace(SGD, clip_norm=0.5)
    states, metrics = run(GOOD[:1], stage=toy_stage(optim={"left": clipped, "right": SGD}))
    moment = optax.tree.get(states[1].opt_state["left"], "mu")["w"]
    assert float(metrics[0]["grad_norm/left"]) > 0.5
    assert abs(float(jnp.linalg.norm(moment)) - 0.1 * 0.5) < 1e-6  # (1 - beta1) x clipped


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 20, 100, 150])
def test_learning_rates_follow_their_formula(schedule, warmup):
    """In float64; float32 and its cosine leave 1e-6 of the highest rate."""
    steps, peak = 100, 2e-3
    config = OptimConfig(learning_rate=peak, warmup_steps=warmup, schedule=schedule)
    rate = jax.jit(learning_rate(config, steps))
    for step in range(steps + 1):
        want = peak
        if step < warmup:
            want *= step / warmup
        elif schedule == "cosine":
            share = min((step - warmup) / max(steps - warmup, 1), 1.0)
            want *= 0.5 * (1.0 + np.cos(np.pi * share))
        assert abs(float(rate(step)) - want) < 1e-6 * peak, step


def test_the_optimizer_holds_nothing_of_frozen_weights():
    stage = toy_stage()
    state = init_state(stage, PARAMS, TrainConfig(steps=10))
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sorted(m.shape for m in moments) == [(1,), (1,), (3,), (3,)]


def test_kernels_that_travel_in_bfloat16_keep_gradients_in_float32():
    mesh = AbstractMesh((1, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    params = {
        "kernel": jax.ShapeDtypeStruct((512, 512), jnp.float32),
        "adapter": jax.ShapeDtypeStruct((512, 4), jnp.float32),  # not split: does not travel
    }

    def loss(whole):
        return (whole["kernel"] @ whole["adapter"]).sum()

    whole = jax.eval_shape(lambda p: gathered(p, mesh, "bfloat16"), params)
    grads = jax.eval_shape(lambda p: jax.grad(loss)(gathered(p, mesh, "bfloat16")), params)
    assert {leaf.dtype for leaf in jax.tree.leaves((whole, grads))} == {jnp.dtype("float32")}
    jaxpr = str(jax.make_jaxpr(lambda p: gathered(p, mesh, "bfloat16"))(params))
    assert "bf16[512,512]" in jaxpr and "bf16[512,4]" not in jaxpr
