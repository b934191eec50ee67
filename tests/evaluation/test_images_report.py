"""`evaluate images`: two folders of images against each other."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.support.lpips_package import reference_lpips
from tests.support.parity import nchw
from tvt_jax import evaluate
from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS
from tvt_jax.errors import UserError
from tvt_jax.evaluation import quality
from tvt_jax.evaluation.images_report import compare_images
from tvt_jax.images import read_image
from tvt_jax.metrics.color import luma
from tvt_jax.metrics.psnr import psnr
from tvt_jax.metrics.ssim import ssim


@pytest.fixture
def folders(tmp_path):
    """Two images in JPEG, one deep, and PNG copies with noise."""
    random = np.random.default_rng(0)
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    for number, name in enumerate(("a", "deep/b")):
        path = sorted(HELDOUT_PHOTOGRAPHS.glob("*.jpg"))[number]
        for folder in (pred, ref):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).crop((0, 0, 64, 48)).save(ref / f"{name}.jpg", quality=95)
        image = read_image(ref / f"{name}.jpg") + random.normal(0, 8, (48, 64, 3))
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(pred / f"{name}.png")
    return pred, ref


def test_values_are_those_of_the_metrics(folders):
    pred, ref = folders
    report = compare_images(pred, ref, "classic", ["ssim", "psnr", "lpips-alex"], quiet=True)
    json.loads(json.dumps(report, allow_nan=False))
    assert [row["name"] for row in report["images"]] == ["a", "deep/b"]
    for row in report["images"]:
        pair = [read_image(pred / f"{row['name']}.png"), read_image(ref / f"{row['name']}.jpg")]
        y = [luma(x[4:-4, 4:-4]) for x in pair]
        assert abs(row["psnr"] - psnr(*y)) < 1e-9 and abs(row["ssim"] - ssim(*y)) < 1e-9
        a, b = (nchw(x[None].astype(np.float32) / 127.5 - 1) for x in pair)
        assert abs(row["lpips-alex"] - reference_lpips("alexnet")(a, b).item()) < 1e-4
        assert "lpips-vgg" not in row and (row["width"], row["height"]) == (64, 48)
    mean = np.mean([row["psnr"] for row in report["images"]])
    assert abs(report["mean"]["psnr"] - mean) < 1e-9


def test_the_command(folders, tmp_path, capsys):
    pred, ref = folders
    output = tmp_path / "reports"
    evaluate.images(pred, ref, "classic", "psnr, ssim", output=output, quiet=True)
    report = json.loads((output / "report.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| PSNR ↑ | SSIM ↑ |"
    assert lines[2] == f"| {report['mean']['psnr']:.2f} | {report['mean']['ssim']:.4f} |"
    assert "Means over 2 images" in lines[4]
    assert (output / "report.md").read_text().splitlines() == lines
    rows = (output / "report.csv").read_text().splitlines()
    assert rows[0] == "name,width,height,psnr,ssim" and len(rows) == 3


def test_single_images_and_equal_ones(folders):
    pred, ref = folders
    report = compare_images(pred / "a.png", ref / "a.jpg", metrics=["psnr"], quiet=True)
    assert len(report["images"]) == 1 and report["mean"]["psnr"] > 20
    for protocol, equal in (("classic", None), ("paper", 80)):
        report = compare_images(ref, ref, protocol, ["psnr", "ssim", "fsim", "gmsd"], quiet=True)
        assert report["mean"] == {"psnr": equal, "ssim": 1, "fsim": 1, "gmsd": 0}
        assert report["protocol"]["name"] == protocol


def test_images_too_small_for_a_metric_have_no_value(folders, capsys):
    pred, ref = folders
    report = compare_images(pred, ref, metrics=["ms-ssim", "psnr"])
    assert report["mean"]["ms-ssim"] is None and report["mean"]["psnr"] > 20
    assert report["notes"] == ["no ms-ssim of images smaller than 161 px"]
    assert capsys.readouterr().err.count("note: no ms-ssim") == 1


def test_mistakes(folders, tmp_path, monkeypatch):
    pred, ref = folders

    def fails(match, pred=pred, ref=ref, metrics=("psnr",)):
        with pytest.raises(UserError, match=match):
            compare_images(pred, ref, "paper", metrics, quiet=True)

    fails("`metrics`: fid is unknown; choose from psnr, ssim", metrics=["psnr", "fid"])
    fails("`pred` .*none does not exist", pred=tmp_path / "none")
    fails("`ref` .*none does not exist", ref=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    fails("`ref` .*empty has no images", ref=tmp_path / "empty")
    monkeypatch.setattr(quality, "load_lpips", missing)
    fails("vgg16 is not there", metrics=["lpips-vgg"])

    Image.new("RGB", (64, 48)).save(pred / "extra.png")
    fails("ref lacks extra")
    (pred / "extra.png").unlink()
    (pred / "a.png").rename(pred / "c.png")
    fails("ref lacks c; .*pred lacks a")
    (ref / "c.png").write_bytes((pred / "c.png").read_bytes())
    fails("pred lacks a")
    (pred / "a.jpg").write_bytes((ref / "a.jpg").read_bytes())
    Image.new("RGB", (64, 44)).save(pred / "c.png")
    fails("c.png is 64x44 px and .*c.png is 64x48; both must have one size")
    (pred / "c.png").write_bytes(b"nothing")
    fails("c.png is not a readable image")
    Image.new("RGB", (64, 20)).save(pred / "c.png")
    Image.new("RGB", (64, 20)).save(ref / "c.png")
    fails("c.png is smaller than 32 px")
    Image.new("RGB", (64, 48)).save(pred / "c.bmp")
    fails("have one name; keep one of them")


def missing(net):
    raise UserError(f"{net} is not there; get it with `this command`.")
