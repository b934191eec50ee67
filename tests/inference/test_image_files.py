"""Formats, damaged files, and where outputs go."""

import numpy as np
import pytest
from PIL import Image

from tvt_jax.errors import UserError
from tvt_jax.inference.image_files import READABLE, plan_jobs, read_image, write_image

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (9, 11, 3), np.uint8)


@pytest.mark.parametrize("suffix", READABLE)
def test_written_pictures_are_read_again(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    smooth = np.full((16, 16, 3), (10, 120, 230), np.uint8)
    write_image(path, smooth)
    tolerance = 3 if suffix in (".jpg", ".jpeg") else 0
    assert np.abs(read_image(path).astype(int) - smooth).max() <= tolerance
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "RGB"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(PICTURE).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (9, 11, 3) and image.dtype == np.uint8


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    grey = np.linspace(0, 65535, 99).astype(np.uint16).reshape(9, 11)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], grey // 257)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(PICTURE, -1))


@pytest.mark.parametrize("content", [b"", b"not a picture", None])
def test_damaged_pictures_are_named(tmp_path, content):
    path = tmp_path / "a.png"
    write_image(path, RNG.integers(0, 256, (64, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(UserError, match="a.png is not a readable picture"):
        read_image(path)


def test_one_file_goes_to_a_file_or_into_a_folder(tmp_path):
    write_image(tmp_path / "in.jpg", PICTURE)
    source = tmp_path / "in.jpg"
    assert plan_jobs([source], tmp_path / "out.webp")[0].target == tmp_path / "out.webp"
    assert plan_jobs([source], tmp_path / "new")[0].target == tmp_path / "new" / "in.png"
    (tmp_path / "dir.d").mkdir()
    assert plan_jobs([source], tmp_path / "dir.d")[0].target == tmp_path / "dir.d" / "in.png"


def test_folders_are_mirrored_to_the_bottom(tmp_path):
    for name in ("a.jpg", "sub/b.PNG", "sub/deep/c.tiff", "same.jpg", "same.bmp"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PICTURE).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("x")
    (tmp_path / "in" / ".hidden.png").write_bytes(b"")
    targets = {
        str(job.target.relative_to(tmp_path / "out"))
        for job in plan_jobs([tmp_path / "in"], tmp_path / "out")
    }
    assert targets == {"a.png", "sub/b.png", "sub/deep/c.png", "same.jpg.png", "same.bmp.png"}


def test_mistakes_are_named(tmp_path):
    write_image(tmp_path / "in" / "a.png", PICTURE)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    for inputs, output, match in (
        ([tmp_path / "none"], "out", "does not exist"),
        ([tmp_path / "empty"], "out", "has no pictures"),
        ([tmp_path / "a.txt"], "out.png", "is not one of"),
        ([tmp_path / "in" / "a.png"], "out.gif", "write one of"),
        ([tmp_path / "in" / "a.png"], "in/a.png", "would replace an input"),
        ([tmp_path / "in"], "in", "would replace an input"),
        ([tmp_path / "in"], "a.txt", "several pictures need a folder"),
    ):
        with pytest.raises(UserError, match=match):
            plan_jobs(inputs, tmp_path / output)


def test_nothing_half_written_stays(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"):
        write_image(tmp_path / "file" / "a.png", PICTURE)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
