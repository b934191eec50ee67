"""`evaluate restoration --dataset`: a set in StableSR's layout from end to end, and its faults."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tvt_jax import evaluate
from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS
from tvt_jax.errors import UserError
from tvt_jax.evaluation import datasets
from tvt_jax.evaluation.datasets import find_dataset
from tvt_jax.evaluation.paper_tables import paper_rows
from tvt_jax.evaluation.protocol import PROTOCOLS
from tvt_jax.evaluation.public_benchmark import degrade
from tvt_jax.images import read_image

NAMES = ("Canon_001_LR4", "Nikon_002_LR4", "Nikon_003_LR4")
SIDE = 96


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The data set "realsr" with three pairs of 24 and 96 px, as the archive unpacks it."""
    monkeypatch.setitem(datasets.KNOWN, "realsr", ("RealSRVal_crop128", len(NAMES), SIDE))
    folder = tmp_path / "data" / "StableSR_testsets" / "RealSRVal_crop128"
    for part in ("test_LR", "test_HR"):
        (folder / part).mkdir(parents=True)
    for name, path in zip(NAMES, sorted(HELDOUT_PHOTOGRAPHS.glob("*.jpg")), strict=False):
        image = read_image(path)[100 : 100 + SIDE, 100 : 100 + SIDE]
        Image.fromarray(image).save(folder / "test_HR" / f"{name}.png")
        Image.fromarray(degrade(image, name, "realistic")).save(folder / "test_LR" / f"{name}.png")
    return tmp_path / "data"


def run(root, output, **options):
    evaluate.restoration(
        against="bicubic", dataset="realsr", data=root, output=output, quiet=True,
        **{"metrics": "psnr,ssim,fsimc", **options},
    )  # fmt: skip
    return json.loads((output / "report.json").read_text())


def without_times(report):
    for method in report["methods"]:
        del method["seconds"], method["memory"]
        for image in method["images"]:
            del image["seconds"]
    return report


def test_end_to_end_twice_the_same(root, tmp_path, capsys):
    first = run(root, tmp_path / "a")
    table = capsys.readouterr().out
    assert without_times(first) == without_times(run(root, tmp_path / "b"))
    # The paper's seven systems beside it, with the columns that were measured.
    lines = table.splitlines()
    assert lines[0].startswith("| method | PSNR ↑ | SSIM ↑ | FSIMc ↑ |")
    assert len([line for line in lines if "(paper)" in line]) == 7
    assert any(line.startswith("| TVT-s1 (paper) | 25.81 | 0.7596 | 0.8581 |") for line in lines)
    assert first["protocol"]["name"] == "paper" and "rounded Y" in table
    assert (tmp_path / "a" / "report.md").read_text() == table
    # Values are those of the protocol on the written images.
    folder = root / "StableSR_testsets" / "RealSRVal_crop128"
    with open(tmp_path / "a" / "report.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(NAMES)
    for row, image in zip(rows, first["methods"][0]["images"], strict=True):
        restored = read_image(tmp_path / "a" / "bicubic" / f"{row['name']}.png")
        high = read_image(folder / "test_HR" / f"{row['name']}.png")
        assert float(row["psnr"]) == image["psnr"] == PROTOCOLS["paper"].psnr(restored, high)
        assert float(row["ssim"]) == PROTOCOLS["paper"].ssim(restored, high)


def test_another_protocol_changes_the_report(root, tmp_path, capsys):
    paper, classic = run(root, tmp_path / "a"), run(root, tmp_path / "b", protocol="classic")
    assert classic["protocol"] != paper["protocol"]
    assert classic["methods"][0]["mean"]["psnr"] != paper["methods"][0]["mean"]["psnr"]
    assert classic["paper"] == {}  # the paper's figures are not of this protocol
    with pytest.raises(UserError, match="`protocol` other is not one of paper, classic, realce"):
        run(root, tmp_path / "c", protocol="other")


def test_images_restored_elsewhere(root, tmp_path):
    """They get the figures of the images themselves; names and sizes are checked."""
    report = run(root, tmp_path / "a")
    folder = tmp_path / "theirs"
    shutil.copytree(tmp_path / "a" / "bicubic", folder)
    again = run(root, tmp_path / "b", pred=(folder,))
    mine, theirs = again["methods"]
    assert theirs["name"] == "theirs" and theirs["seconds"] is None
    assert theirs["mean"] == mine["mean"] == report["methods"][0]["mean"]
    Image.new("RGB", (90, SIDE)).save(folder / f"{NAMES[0]}.png")
    with pytest.raises(UserError, match=rf"{NAMES[0]}.png is 90x96 px and .* 96x96; both must"):
        run(root, tmp_path / "c", pred=(folder,))
    (folder / f"{NAMES[0]}.png").rename(folder / "other.png")
    with pytest.raises(UserError, match=f"realsr lacks other; .*theirs lacks {NAMES[0]}"):
        run(root, tmp_path / "c", pred=(folder,))


def test_other_layouts_are_read(root, tmp_path):
    source = root / "StableSR_testsets" / "RealSRVal_crop128"
    shutil.copytree(source / "test_LR", tmp_path / "set" / "lq")
    shutil.copytree(source / "test_HR", tmp_path / "set" / "gt")
    found = find_dataset(str(tmp_path / "set"), tmp_path)
    assert list(found.low) == list(found.high) == list(NAMES)
    assert paper_rows(found.name) == {}


def test_faults_of_a_data_set_are_one_line(root, tmp_path):
    folder = root / "StableSR_testsets" / "RealSRVal_crop128"

    def fails(match, name="realsr"):
        with pytest.raises(UserError, match=match):
            find_dataset(name, root)

    fails("there is no .*DrealSRVal_crop128; unpack StableSR_testsets.zip", "drealsr")
    fails("nowhere is no folder, and none of realsr, drealsr, div2k-val", "nowhere")
    fails("has no folders test_LR and test_HR", str(root))
    extra = folder / "test_LR" / "extra.png"
    shutil.copy(folder / "test_LR" / f"{NAMES[0]}.png", extra)
    fails("test_HR lacks extra")
    shutil.copy(folder / "test_HR" / f"{NAMES[0]}.png", folder / "test_HR" / "extra.png")
    fails("has 4 pairs, and realsr has 3")
    for part in ("test_LR", "test_HR"):
        (folder / part / "extra.png").unlink()
    low = folder / "test_LR" / f"{NAMES[1]}.png"
    Image.new("RGB", (24, 23)).save(low)
    fails(rf"{NAMES[1]}.png is 96x96 px and .* is 24x23; the first must be 4 times")
    low.write_bytes(b"nothing")
    fails(f"{NAMES[1]}.png is not a readable image")
    Image.new("RGB", (92, SIDE)).save(folder / "test_HR" / f"{NAMES[0]}.png")
    fails(f"{NAMES[0]}.png is 92x96 px, and realsr has 96x96")
    low.unlink()
    fails(f"test_LR lacks {NAMES[1]}")


def test_the_papers_rows():
    """Spot checks; TVT's figures as the paper's text quotes them."""
    assert list(paper_rows("drealsr")) == [
        "StableSR-s200", "DiffBIR-s50", "SeeSR-s50", "PASD-s20", "S3Diff-s1", "OSEDiff-s1",
        "TVT-s1",
    ]  # fmt: skip
    row = paper_rows("realsr")["TVT-s1"]
    assert (row["psnr"], row["ssim"], row["fsimc"]) == (25.81, 0.7596, 0.8581)
    assert paper_rows("div2k-val")["OSEDiff-s1"]["dists"] == 0.1976
    values = np.array([list(r.values()) for n in datasets.KNOWN for r in paper_rows(n).values()])
    assert values.shape == (21, 12)
