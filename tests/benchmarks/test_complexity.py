"""The paper's tables of cost with ours beside them."""

import json
import re

import pytest

from tests.benchmarks.small_networks import SMALL_UNET, SMALL_VAE
from tvt_jax import bench
from tvt_jax.benchmarks import cost_tables, infer_speed, systems
from tvt_jax.benchmarks.cost_tables import PAPER_ABLATIONS, PAPER_SYSTEMS, complexity_report
from tvt_jax.benchmarks.speed import speed_table
from tvt_jax.benchmarks.systems import SYSTEMS
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


def test_systems_are_timed(monkeypatch, tmp_path, capsys):
    """With small networks in the place of the paper's; the figures are written, too."""
    monkeypatch.setitem(systems.VAES, "VAE-D4", SMALL_VAE)
    monkeypatch.setitem(systems.UNETS, "CE-UNet", SMALL_UNET)
    monkeypatch.setattr(cost_tables, "complexity_report", speed_table)  # half a minute of tracing
    monkeypatch.setattr(infer_speed, "infer_speed", smaller(infer_speed.infer_speed))
    bench.complexity("TVT", tmp_path / "measured.json")
    assert "| TVT, 64 px, UNet float32, VAE float32, 1 x cpu | 1 |" in capsys.readouterr().out
    [speed] = json.loads((tmp_path / "measured.json").read_text())["speeds"]
    assert 0 < speed["seconds"][0] < 5 and speed["needed"] > 64 * 64 * 3 * 4
    assert 10_000 < speed["held"] < 10_000_000


def smaller(measure):
    """The same measurement, of fewer pixels."""
    return lambda *networks, size, **options: measure(*networks, size=size // 8, **options)


def test_a_system_that_does_not_exist():
    with pytest.raises(UserError, match="`measure` S9 is not one of V1, V2, S1"):
        bench.complexity("S9")
