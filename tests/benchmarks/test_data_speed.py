"""The comparison of speeds: its table, its messages and, with BasicSR installed, its fairness."""

import importlib.util
import random

import cv2
import numpy as np
import pytest

from tvt_jax.benchmarks.data_speed import _crops, degradation_speed_report
from tvt_jax.benchmarks.reference_degradation import ReferenceDegradation
from tvt_jax.config import DEGRADATIONS
from tvt_jax.data.degradation import degrade, draw_recipe
from tvt_jax.errors import UserError

INSTALLED = importlib.util.find_spec("basicsr") is not None


def test_the_report_tells_both_presets_and_leaves_opencv_as_it_was():
    threads = cv2.getNumThreads()
    report = degradation_speed_report(against_reference=False, crop=96, rounds=2, images=2)
    rows = [line.split("|")[1:-1] for line in report.splitlines() if "| tvt_jax |" in line]
    assert [row[0].strip() for row in rows] == ["mild", "strong"]
    assert all(float(row[2].split()[0]) > 1 for row in rows)
    assert cv2.getNumThreads() == threads


@pytest.mark.skipif(INSTALLED, reason="basicsr is installed")
def test_a_missing_reference_is_told_in_one_line():
    with pytest.raises(UserError, match=r"pip install --no-deps basicsr==1\.4\.2"):
        degradation_speed_report(against_reference=True, crop=96, rounds=1, images=1)


@pytest.mark.parametrize(("crop", "images"), [(64, 2), (98, 2), (96, 0)])
def test_numbers_that_cannot_be(crop, images):
    with pytest.raises(UserError, match="at least"):
        degradation_speed_report(against_reference=False, crop=crop, rounds=1, images=images)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs basicsr 1.4.2")
@pytest.mark.parametrize("preset", DEGRADATIONS)
def test_the_reference_degrades_as_much(preset):
    """What is timed is the same work: both leave equally different low resolutions."""
    import torch

    config = DEGRADATIONS[preset]
    reference, rng = ReferenceDegradation(config), np.random.default_rng(0)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    differences = []
    for image, _ in zip(_crops(128), range(100), strict=False):
        exact = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
        both = degrade(image, draw_recipe(config, rng, 128, 128)), reference(image)
        own, other = (np.sqrt(np.mean((lr - exact) ** 2)) for lr, _ in both)
        assert both[0][0].shape == both[1][0].shape and both[0][1].shape == both[1][1].shape
        differences.append(own - other)
    assert abs(np.mean(differences)) < 4 * np.std(differences) / np.sqrt(len(differences))
