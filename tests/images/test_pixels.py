"""What becomes of each kind of picture. Values are computed from the pixels that were written."""

import threading

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import encode, noise
from tvt_jax.errors import UserError
from tvt_jax.images import (
    BadImage,
    decode_image,
    image_suffixes,
    read_image,
    to_float,
    writable_suffixes,
    write_image,
)

PIXELS = noise(0, 9, 11)
RGB = Image.fromarray(PIXELS)


def test_lossless_pictures_keep_their_pixels():
    for file_format in ("PNG", "TIFF", "BMP", "PPM", "TGA"):
        picture = decode_image(encode(RGB, file_format))
        np.testing.assert_array_equal(picture.pixels, PIXELS)
        assert picture.conversions == () and picture.pixels.dtype == np.uint8


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_keep_their_upper_byte_or_are_scaled(suffix):
    grey = np.linspace(0, 65535, 99).astype(np.uint16).reshape(9, 11)
    picture = decode_image(cv2.imencode(suffix, grey)[1].tobytes())
    np.testing.assert_array_equal(picture.pixels, np.repeat(grey[..., None] // 257, 3, axis=2))
    assert picture.conversions == ("16 bits to 8", "greyscale to RGB")
    colour = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=2)
    picture = decode_image(cv2.imencode(suffix, colour[..., ::-1])[1].tobytes())
    np.testing.assert_array_equal(picture.pixels, colour >> 8)
    assert picture.conversions == ("16 bits to 8",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(orientation):
    # The eight orientations as EXIF 2.3 defines them: where row 0 and column 0 are.
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode_image(encode(RGB, "PNG", exif=exif))
    np.testing.assert_array_equal(picture.pixels, upright[orientation](PIXELS))
    assert picture.conversions == (("turned as EXIF says",) if orientation > 1 else ())


def test_damaged_exif_does_not_cost_the_picture():
    data = encode(RGB, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=95)
    assert decode_image(data).pixels.shape == PIXELS.shape


@pytest.mark.parametrize(
    ("mode", "conversions"),
    [
        ("L", ("greyscale to RGB",)),
        ("1", ("greyscale to RGB",)),
        ("LA", ("greyscale to RGB", "transparency dropped")),
        ("P", ("palette to RGB",)),
        ("RGBA", ("transparency dropped",)),
    ],
)
def test_modes_become_rgb(mode, conversions):
    converted = RGB.convert(mode)
    picture = decode_image(encode(converted, "PNG"))
    expected = np.asarray(converted.convert("L" if mode == "LA" else "RGB"))
    expected = np.repeat(expected[..., None], 3, axis=2) if mode == "LA" else expected
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.conversions == conversions


def test_transparency_uncovers_the_colours_as_stored():
    rgba = np.dstack([PIXELS, np.zeros((9, 11), np.uint8)])
    picture = decode_image(encode(Image.fromarray(rgba), "PNG"))
    np.testing.assert_array_equal(picture.pixels, PIXELS)


def test_cmyk_becomes_rgb():
    cmyk = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    assert decode_image(encode(cmyk, "TIFF")).pixels[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(file_format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    picture = decode_image(data)
    assert (picture.pixels == 255).all() and "first of several frames" in picture.conversions


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unknown format or damaged"),
        (b"not a picture", "unknown format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unknown format"),
        (encode(RGB, "PNG")[:200], "truncated|broken"),
        (encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "floating-point"),
        (encode(Image.new("LAB", (4, 4)), "TIFF"), "CIELAB"),
        (encode(Image.new("1", (20000, 10000)), "PNG", compress_level=1), "200000000 pixels"),
    ],
    ids=["empty", "text", "eps", "truncated", "float", "lab", "too_large"],
)
def test_what_is_refused(data, reason):
    with pytest.raises(BadImage, match=reason):
        decode_image(data)


def test_small_pictures_are_refused_before_they_are_decoded():
    damaged = encode(Image.fromarray(noise(0, 64, 64)), "PNG")[:500]
    with pytest.raises(BadImage, match="64x64 px, smaller than 65"):
        decode_image(damaged, min_side=65)
    with pytest.raises(BadImage, match="truncated|broken"):
        decode_image(damaged, min_side=64)


@pytest.mark.parametrize(
    "error", [KeyError("x"), TypeError("y"), MemoryError(), ZeroDivisionError()]
)
def test_whatever_a_reader_raises_is_a_bad_picture(monkeypatch, error):
    """No damaged file is known for these; Pillow's readers have raised each of them before."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(BadImage, match="x|y|memory|ZeroDivisionError"):
        decode_image(b"")


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch):
    from tvt_jax.images import pixels as images

    monkeypatch.setattr(images, "_LARGE", 50)
    inside, most, guard = 0, 0, threading.Lock()
    original = images._to_rgb

    def watched(picture):
        nonlocal inside, most
        with guard:
            inside += 1
            most = max(most, inside)
        result = original(picture)
        with guard:
            inside -= 1
        return result

    monkeypatch.setattr(images, "_to_rgb", watched)
    data = encode(Image.fromarray(noise(0, 300, 300)), "PNG")
    threads = [threading.Thread(target=decode_image, args=(data,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_photographs_count_as_pictures_and_other_files_do_not():
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".bmp", ".jp2"} <= image_suffixes()
    assert not {".eps", ".pdf", ".h5", ".mpg", ".txt", ".json", ""} & image_suffixes()


@pytest.mark.parametrize("suffix", writable_suffixes())
def test_written_images_are_read_again(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    smooth = np.full((16, 16, 3), (10, 120, 230), np.uint8)
    write_image(path, smooth)
    tolerance = 3 if suffix in (".jpg", ".jpeg", ".avif") else 0
    assert np.abs(read_image(path).astype(int) - smooth).max() <= tolerance
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"", b"not a picture", None])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "a.png"
    write_image(path, noise(0, 64, 64))
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(UserError, match="a.png is not a readable image"):
        read_image(path)


def test_nothing_half_written_stays(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"):
        write_image(tmp_path / "file" / "a.png", PIXELS)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_scaling_is_exact_wherever_it_runs():
    """Compiled, fused with what follows, and in numpy: the bits of a division in float32."""
    levels = np.arange(256, dtype=np.uint8)
    want = levels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    many = np.tile(levels, (64, 16, 1))
    fused = jax.jit(lambda x: jnp.concatenate([to_float(x), 2 * to_float(x)]))(levels)
    for got in (to_float(levels), jax.jit(to_float)(levels), fused[:256]):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(got).view(np.uint32), want.view(np.uint32))
    np.testing.assert_array_equal(jax.jit(to_float)(many), np.broadcast_to(want, many.shape))
