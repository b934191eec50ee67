"""The paper's tables of cost with ours beside them."""

import re

import pytest

from tvt_jax.benchmarks.complexity import PAPER_ABLATIONS, PAPER_SYSTEMS, complexity_report


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
