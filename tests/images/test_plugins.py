"""JPEG XL and HEIC, which Pillow reads and writes where their plug-ins are installed."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.support.image_kinds import profile
from tvt_jax.errors import UserError
from tvt_jax.images import read_image
from tvt_jax.images.formats import Encoding, check_format
from tvt_jax.images.photograph import read_photograph
from tvt_jax.images.writing import write_photograph

PLUGINS = {"jxl": ("pillow_jxl", ".jxl"), "heif": ("pillow_heif", ".heic")}
CAMERA, MAKER, F_NUMBER, ORIENTATION = 0x8769, 271, 33437, 274
Y, X = np.mgrid[:48, :64]
COLORS = np.stack([60 + X * 2, 80 + Y * 2, 200 - X - Y], -1).astype(np.uint8)


def plugin(name):
    """The suffix of a format, if its plug-in is installed."""
    module, suffix = PLUGINS[name]
    pytest.importorskip(module)
    check_format(name)
    return suffix


def exif(orientation=1):
    tags = Image.Exif()
    tags[MAKER], tags[ORIENTATION], tags.get_ifd(CAMERA)[F_NUMBER] = "Camera", orientation, 2.8
    return tags.tobytes()


@pytest.mark.parametrize("name", PLUGINS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_what_is_seen_and_its_metadata_stay(tmp_path, name, mode):
    suffix = plugin(name)
    image = Image.fromarray(COLORS).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(X.astype(np.uint8) * 4))
    icc = profile("Display P3") if mode != "L" else None
    image.save(tmp_path / "a.png", exif=exif(), icc_profile=icc)
    before = read_photograph(tmp_path / "a.png")
    colors = before.frames[0].rgb
    notes = write_photograph(tmp_path / f"a{suffix}", before, [colors], name, Encoding())
    after = read_photograph(tmp_path / f"a{suffix}")
    assert after.size == (64, 48) and not after.notes
    levels = [p.frames[0].rgb / np.iinfo(p.frames[0].rgb.dtype).max * 255 for p in (before, after)]
    seen = np.s_[:, 1:] if mode == "RGBA" else np.s_[:]  # what is transparent has no colour
    difference = np.abs(levels[1] - levels[0])[seen]
    assert difference.max() < 20 and difference.mean() < 1.5  # of lossy compression
    assert (after.frames[0].alpha is not None) == (mode == "RGBA")
    assert after.metadata.exif[MAKER] == "Camera"
    assert float(after.metadata.exif.get_ifd(CAMERA)[F_NUMBER]) == pytest.approx(2.8)
    expected = {
        ("jxl", True): ["the colour profile becomes sRGB in JXL"],
        ("heif", False): ["greyscale becomes colour in HEIF"],
    }
    assert notes == expected.get((name, icc is not None), [])


@pytest.mark.parametrize("name", PLUGINS)
def test_the_best_quality_is_written(tmp_path, name):
    suffix = plugin(name)
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    photograph = read_photograph(tmp_path / "a.png")
    encoding = Encoding(quality=100)
    write_photograph(tmp_path / f"a{suffix}", photograph, [COLORS], name, encoding)
    difference = np.abs(read_image(tmp_path / f"a{suffix}").astype(int) - COLORS)
    assert difference.max() <= (0 if name == "jxl" else 3)


@pytest.mark.parametrize("name", PLUGINS)
@pytest.mark.parametrize("kind", ["plain", "jpeg"])
def test_an_image_is_turned_once(tmp_path, name, kind):
    """JPEG XL's decoder heeds its own orientation, not EXIF's, unless a JPEG file is in it."""
    suffix = plugin(name)
    image = Image.fromarray(COLORS)
    if kind == "jpeg":
        image.save(tmp_path / "a.jpg", quality=97, subsampling=0, exif=exif(6))
        image = Image.open(tmp_path / "a.jpg")
    options = {"quality": 95} if name == "heif" or kind == "plain" else {}
    image.save(tmp_path / f"a{suffix}", exif=exif(6), **options)
    turned = name == "heif" or kind == "jpeg"
    want = np.rot90(COLORS, -1) if turned else COLORS
    for got in (
        read_photograph(tmp_path / f"a{suffix}").frames[0].rgb,
        read_image(tmp_path / f"a{suffix}"),
    ):
        assert got.shape == want.shape and got.dtype == np.uint8
        assert np.abs(got.astype(int) - want).mean() < 3


@pytest.mark.parametrize("name", PLUGINS)
def test_damage_is_one_line(tmp_path, name):
    suffix = plugin(name)
    buffer = io.BytesIO()
    Image.fromarray(COLORS).save(buffer, name.upper(), quality=90)
    (tmp_path / f"a{suffix}").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(UserError, match=f"a{suffix} is not a readable image"):
        read_photograph(tmp_path / f"a{suffix}")
