"""The measurement of the degradation: its table and its messages."""

import cv2
import pytest

from tvt_jax.benchmarks.data_speed import degradation_speed_report
from tvt_jax.errors import UserError


def test_the_report_tells_both_presets_and_leaves_opencv_as_it_was():
    threads = cv2.getNumThreads()
    report = degradation_speed_report(crop=96, rounds=2, images=2)
    rows = [line.split("|")[1:-1] for line in report.splitlines()[4:]]
    assert [row[0].strip() for row in rows] == ["mild", "strong"]
    assert all(float(cell.split()[0]) > 1 for row in rows for cell in row[1:])
    assert cv2.getNumThreads() == threads


@pytest.mark.parametrize(("crop", "images"), [(64, 2), (98, 2), (96, 0)])
def test_numbers_that_cannot_be(crop, images):
    with pytest.raises(UserError, match="at least"):
        degradation_speed_report(crop=crop, rounds=1, images=images)
