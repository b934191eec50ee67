"""Figures of speed: what follows from what, and what is counted."""

import itertools
import json

import jax
import pytest

from tests.benchmarks.small_networks import small_networks
from tests.models.test_tagger import TINY
from tvt_jax import bench
from tvt_jax.benchmarks import infer_speed as infer_speed_module
from tvt_jax.benchmarks import speed as speed_module
from tvt_jax.benchmarks.complexity import unet_cost, vae_cost
from tvt_jax.benchmarks.infer_speed import infer_speed
from tvt_jax.benchmarks.speed import Speed, matmul_rate, speed_table, timings, write_speeds
from tvt_jax.benchmarks.tagger_speed import compile_tagger
from tvt_jax.errors import UserError

SPEED = Speed(
    "a step", "TPU v9", devices=2, batch_size=8, seconds=(0.5, 0.4, 0.9), cpu_seconds=None,
    flops=1e12, matmul_rate=8e12, held=2**30, needed=2**29, peak=None, compile_seconds=60.0,
)  # fmt: skip


def test_the_floor_is_what_products_take():
    assert SPEED.images_per_second == 16 and SPEED.floor == 0.125 and SPEED.share == 0.25
    cells = [c.strip() for c in speed_table([SPEED]).splitlines()[2].strip("|").split("|")]
    assert cells == [
        "a step, 2 x TPU v9", "8", "16 (64)", "0.5 (0.4 - 0.9)", "", "0.125", "25%",
        "", "1.00", "0.50", "60 s",
    ]  # fmt: skip


def test_figures_are_written(tmp_path):
    write_speeds(tmp_path / "speeds.json", [SPEED], device="that one")
    written = json.loads((tmp_path / "speeds.json").read_text())
    assert written["device"] == "that one" and written["versions"]["jax"] == jax.__version__
    [row] = written["speeds"]
    assert row["seconds"] == [0.5, 0.4, 0.9] and row["floor"] == 0.125 and row["share"] == 0.25


def test_medians_and_cpu_seconds():
    times = [(1.0, 3.0), (5.0, 2.0), (2.0, 2.5)]
    assert timings(times, on_cpu=True) == {"seconds": (2.0, 1.0, 5.0), "cpu_seconds": 2.5}
    assert timings(times, on_cpu=False)["cpu_seconds"] is None


def test_the_rate_is_of_products_in_the_fastest_round(monkeypatch):
    """By hand: four products of 8x8 matrices are 4096 operations."""
    seconds = itertools.cycle([4.0, 2.0, 3.0])

    def timed(call):
        assert call().shape == (8, 8)
        return 100.0, next(seconds)

    monkeypatch.setattr(speed_module, "time_call", timed)
    assert matmul_rate("float32", side=8, rounds=3) == 4096 / 2


@pytest.fixture(scope="module")
def networks():
    return small_networks("bfloat16")


def test_restoration_is_timed_in_its_dtypes(networks):
    speed = infer_speed(*networks, size=64, batch_size=2, rounds=1)
    assert (speed.what, speed.batch_size) == ("64 px, UNet bfloat16, VAE float32", 2)
    assert 0 < speed.share < 1 and speed.peak > speed.held > 2 * 64 * 64 * 3 * 4
    vae, unet = networks
    # Two operations for each multiply-add of two images, with a 64th of 512 px's pixels.
    of_vae, of_unet = vae_cost(vae.config), unet_cost(unet.config, 64 // 4)
    assert speed.flops == 2 * 2 * (of_vae.layers / 64 + of_unet.layers + of_unet.attention)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(size=66), "`size` 66 must be a multiple of 8"),
        (dict(batch_size=0), "`batch_size` must be at least 1"),
        (dict(rounds=0), "`rounds` must be at least 1"),
    ],
)
def test_numbers_that_cannot_be(networks, changes, match):
    with pytest.raises(UserError, match=match):
        infer_speed(*networks, **{"size": 64, "batch_size": 1, "rounds": 1, **changes})


@pytest.mark.parametrize(("dtype", "vae_dtype"), [("bfloat16", "bfloat16"), ("float16", "float32")])
def test_the_command_takes_a_model_folder(
    small_model, tmp_path, capsys, monkeypatch, dtype, vae_dtype
):
    def measured(vae, unet, size, batch_size, rounds):
        assert (vae.dtype, unet.dtype) == (vae_dtype, dtype)
        assert unet.config.cross_attention_dim == 48 and (size, batch_size, rounds) == (256, 3, 7)
        return SPEED

    monkeypatch.setattr(infer_speed_module, "infer_speed", measured)
    options = dict(size=256, batch_size=3, rounds=7, json=tmp_path / "infer.json")
    bench.infer(small_model, dtype=dtype, **options)
    assert "| a step, 2 x TPU v9 | 8 | 16 (64) |" in capsys.readouterr().out
    assert json.loads((tmp_path / "infer.json").read_text())["speeds"][0]["batch_size"] == 8
    with pytest.raises(UserError, match="nowhere is not a model folder"):
        bench.infer(tmp_path / "nowhere")


def test_the_tagger_is_timed():
    program = compile_tagger(2, "float32", TINY)
    assert program.run().shape == (2, TINY.num_classes)
    assert program.flops > 0 and program.held > 0 and program.batch_size == 2
    with pytest.raises(UserError, match="`batch_size` must be at least 1"):
        compile_tagger(0, "float32", TINY)
