"""Metrics against their formulas in float64, written out, and the package `lpips`."""

import numpy as np
import pytest
import torch

from tests.support.lpips_package import reference_lpips
from tests.support.parity import nchw
from tvt_jax.metrics import compiled
from tvt_jax.metrics.color import luma
from tvt_jax.metrics.lpips import lpips
from tvt_jax.metrics.psnr import psnr
from tvt_jax.metrics.ssim import ssim
from tvt_jax.weights.lpips import load_lpips


def pair(height=40, width=33, seed=0):
    """An image with flat, smooth and noisy parts, and a worse copy; [H, W, 3] uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([127 + 100 * np.sin(x / (3 + c) + y / (5 + c)) for c in range(3)], -1)
    image[: height // 3] = 255
    image[-height // 4 :] += random.normal(0, 20, image[-height // 4 :].shape)
    worse = 0.9 * image + 10 + random.normal(0, 6, image.shape)
    return tuple(np.clip(np.round(p), 0, 255).astype(np.uint8) for p in (image, worse))


def slow_ssim(a, b):
    """Wang et al.'s formula, window by window."""
    distance = np.arange(11) - 5
    weights = np.exp(-(distance[:, None] ** 2 + distance[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            x, y = (i[top : top + 11, left : left + 11].astype(np.float64) for i in (a, b))
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            cov = (weights * (x - mx) * (y - my)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append(
                (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
            )
    return np.mean(values)


def test_luma():
    """BT.601 at its corners: white is 235, black 16, and the primaries as the standard says."""
    colours = np.array(
        [[[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8
    )
    np.testing.assert_allclose(luma(colours)[0], [235, 16, 81.481, 144.553, 40.966], atol=1e-9)


def test_psnr():
    image, worse = pair()
    error = [(int(a) - int(b)) ** 2 for a, b in zip(image.ravel(), worse.ravel(), strict=True)]
    assert abs(psnr(worse, image) - 10 * np.log10(255**2 * len(error) / sum(error))) < 1e-9
    assert psnr(image, image) == np.inf
    y = psnr(luma(worse), luma(image))
    assert abs(y - 10 * np.log10(255**2 / np.mean((luma(worse) - luma(image)) ** 2))) < 1e-9


def test_ssim():
    image, worse = pair()
    got = ssim(luma(worse), luma(image))
    assert 0.3 < got < 0.95
    assert abs(got - slow_ssim(luma(worse), luma(image))) < 1e-9
    colour = np.mean([slow_ssim(worse[..., c], image[..., c]) for c in range(3)])
    assert abs(ssim(worse, image) - colour) < 1e-9
    assert abs(ssim(image, image) - 1) < 1e-12


def test_ssim_of_small_images():
    image, worse = pair(11, 11)
    assert abs(ssim(luma(worse), luma(image)) - slow_ssim(luma(worse), luma(image))) < 1e-9
    with pytest.raises(ValueError, match="11 px"):
        ssim(worse[:10], image[:10])


def test_lpips_of_8_bit_images():
    pairs = [pair(seed=seed) for seed in (0, 1)]
    images, worse = (np.stack(side) for side in zip(*pairs, strict=True))
    network = load_lpips("alexnet")
    got = lpips(network, worse, images)
    a, b = (nchw(x.astype(np.float32) / 127.5 - 1) for x in (worse, images))
    with torch.no_grad():
        want = reference_lpips("alexnet")(a, b).flatten().numpy()
    np.testing.assert_allclose(got, want, atol=1e-5)
    programs = len(compiled._PROGRAMS)
    lpips(network, images, worse)
    assert len(compiled._PROGRAMS) == programs
