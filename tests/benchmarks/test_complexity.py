"""The paper's tables of cost with ours beside them."""

import re

import pytest

from tvt_jax import bench
from tvt_jax.benchmarks import systems
from tvt_jax.benchmarks.cost_tables import PAPER_ABLATIONS, PAPER_SYSTEMS, complexity_report
from tvt_jax.benchmarks.systems import SYSTEMS, system_speed
from tvt_jax.config import UNetConfig, VAEConfig
from tvt_jax.errors import UserError


@pytest.mark.slow  # half a minute of tracing networks of full size
def test_ours_stand_beside_the_papers():
    """Within 9 %: the paper tells neither its counter nor what of the tagger it counts.

    Networks alone are compared closely in `tests/test_full_size.py`.
    """
    lines = complexity_report().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    assert {len(row) for row in rows} == {6}
    names = [re.split("[:,]", row[0])[0] for row in rows]
    assert set(PAPER_SYSTEMS) | set(PAPER_ABLATIONS) <= set(names)
    compared = 0
    for _, _, layers, attention, _, paper in rows:
        if layers.endswith(" T") and paper:
            ours, both, theirs = (float(x.removesuffix("T")) for x in (layers, attention, paper))
            assert ours <= both and abs(ours / theirs - 1) < 0.09
            compared += 1
    assert compared == 2 + 2 + 2 + 3 + 6


def test_systems_are_those_of_the_paper():
    assert list(SYSTEMS) == list(PAPER_ABLATIONS)


def test_a_system_is_timed(monkeypatch):
    """With small networks in the place of the paper's."""
    vae = VAEConfig(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block=False
    )
    unet = UNetConfig(
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=(1, 1),
        layers_per_block=1,
        norm_num_groups=4,
    )
    monkeypatch.setitem(systems.VAES, "VAE-D4", vae)
    monkeypatch.setitem(systems.UNETS, "CE-UNet", unet)
    speed = system_speed("TVT", side=64, rounds=1)
    assert 0 < speed.seconds < 5 and speed.needed > 64 * 64 * 3 * 4
    assert 10_000 < speed.weights < 10_000_000


def test_a_system_that_does_not_exist():
    with pytest.raises(UserError, match="`measure` S9 is not one of V1, V2, S1"):
        bench.complexity("S9")
