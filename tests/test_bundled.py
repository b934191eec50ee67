"""The model in the box: its size, that `infer` takes it by default, that it beats bicubic."""

import numpy as np
import pytest

from tvt_jax.bundled import ASSETS, DEGRADED_PHOTOGRAPH, HELDOUT_PHOTOGRAPHS, SMALL_MODEL
from tvt_jax.demo import demo
from tvt_jax.evaluation.methods import load_method
from tvt_jax.evaluation.protocol import PROTOCOLS
from tvt_jax.evaluation.public_benchmark import degrade
from tvt_jax.evaluation.quality import Quality
from tvt_jax.evaluation.report import mean_values
from tvt_jax.images import read_image
from tvt_jax.infer import infer
from tvt_jax.inference.upscaler import Upscaler


@pytest.fixture(scope="module")
def restored():
    return Upscaler.from_folder()(read_image(DEGRADED_PHOTOGRAPH))


def test_weights_in_the_package_are_at_most_10_mb():
    assert sum(path.stat().st_size for path in ASSETS.rglob("*.safetensors")) <= 10e6
    assert (SMALL_MODEL / "README.md").is_file()  # the model card


def test_the_degraded_photograph_is_what_the_benchmark_makes_of_the_original():
    name = DEGRADED_PHOTOGRAPH.stem
    original = read_image(HELDOUT_PHOTOGRAPHS / f"{name}.jpg")
    degraded = degrade(original, name, "realistic")
    # JPEG decoders differ by a level here and there.
    assert np.abs(read_image(DEGRADED_PHOTOGRAPH) - degraded.astype(int)).max() <= 2


def test_the_bundled_model_is_better_than_bicubic():
    """On average over the held-out photographs; on single ones it may lose."""
    names = sorted(path.stem for path in HELDOUT_PHOTOGRAPHS.glob("*.jpg"))
    originals = {name: read_image(HELDOUT_PHOTOGRAPHS / f"{name}.jpg") for name in names}
    quality = Quality(PROTOCOLS["classic"], ("psnr", "ssim", "lpips-vgg"), required=True)

    def measure(method):
        rows = []
        for name, original in originals.items():
            rows.append(quality.measure(method(degrade(original, name, "realistic")), original))
        return mean_values(rows, quality.columns)

    got, bicubic = measure(Upscaler.from_folder()), measure(load_method("bicubic"))
    # Measured of the bundled model: 0.20 dB, 0.017, 0.028.
    assert got["psnr"] > bicubic["psnr"] + 0.08
    assert got["ssim"] > bicubic["ssim"] + 0.009
    assert got["lpips-vgg"] < bicubic["lpips-vgg"] - 0.016


def test_infer_takes_the_bundled_model_and_says_so(restored, tmp_path, capsys):
    infer([DEGRADED_PHOTOGRAPH], tmp_path / "out.png")
    assert "no --model: the small bundled model" in capsys.readouterr().out
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), restored)


def test_demo_prints_figures_and_writes_images(restored, tmp_path, capsys):
    demo(tmp_path)
    out = capsys.readouterr().out
    assert all(word in out for word in ("PSNR", "LPIPS-VGG", "bicubic", "restored", "again in"))
    np.testing.assert_array_equal(read_image(tmp_path / DEGRADED_PHOTOGRAPH.name), restored)
    assert read_image(tmp_path / "side_by_side.png").shape == (512, 3 * 512, 3)
