"""Images leave as they came. Enlarging stands for the networks: it repeats every pixel."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps

from tests.support.image_files import encode, noise
from tests.support.image_kinds import (
    PRIMARIES,
    deep_png,
    deep_tiff,
    profile,
    srgb_to,
    table_profile,
    values,
)
from tvt_jax.errors import UserError
from tvt_jax.images.color_profiles import BadProfile, open_profile
from tvt_jax.images.formats import FORMATS, Encoding, check_fits
from tvt_jax.images.photograph import decode_photograph
from tvt_jax.images.pixels import BadImage
from tvt_jax.images.writing import write_photograph

RNG = np.random.default_rng(0)


def enlarged(frame, times=2):
    return frame.rgb.repeat(times, 0).repeat(times, 1)


def through(data, path, encoding=None, all_frames=False):
    """Enlarges the image in `data` into the file `path`; returns its content and all notes."""
    encoding = encoding or Encoding()
    photograph = decode_photograph(data, all_frames)
    name = next(key for key, f in FORMATS.items() if path.suffix in f.suffixes)
    frames = [enlarged(frame) for frame in photograph.frames]
    notes = write_photograph(path, photograph, frames, name, encoding)
    return path.read_bytes(), [*photograph.notes, *notes]


def camera_exif(orientation=1, thumbnail=False):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "Camera"
    camera = exif.get_ifd(ExifTags.IFD.Exif)
    camera[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
    camera[ExifTags.Base.ExifImageWidth], camera[ExifTags.Base.ExifImageHeight] = 11, 9
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (47.0, 30.0, 15.0)
    if not thumbnail:
        return exif
    # A directory with a thumbnail after the first one, as cameras write it.
    data = bytearray(exif.tobytes())
    start = 6 + int.from_bytes(data[10:14], "big" if data[6:8] == b"MM" else "little")
    order = "big" if data[6:8] == b"MM" else "little"
    after = start + 2 + 12 * int.from_bytes(data[start : start + 2], order)
    picture = b"\xff\xd8thumbnail\xff\xd9"
    first, where = len(data) - 6, len(data) - 6 + 2 + 24 + 4
    data[after : after + 4] = first.to_bytes(4, order)
    data += (2).to_bytes(2, order)
    for tag, value in ((513, where), (514, len(picture))):
        data += tag.to_bytes(2, order) + (4).to_bytes(2, order)
        data += (1).to_bytes(4, order) + value.to_bytes(4, order)
    return bytes(data + bytes(4) + picture)


def tiff_options(exif):
    """For Pillow, which writes `exif` into TIFF files only in part."""
    directories = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
    nested = {directory: dict(exif.get_ifd(directory)) for directory in directories}
    return dict(tiffinfo={**exif, **nested})


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/>title</x:xmpmeta>'


KINDS = "1 L LA P PA RGB RGBA 16L 16LA 16RGB 16RGBA F 3F I jpeg webp bmp avif".split()


def random_file(rng, kind):
    """A file of two flat colours side by side, of one where its format loses; (format, content)."""
    height, width = (int(n) for n in rng.integers(1, 40, 2))
    deep = np.full((height, width, 4), rng.integers(0, 65536, 4), np.uint16)
    if kind not in ("jpeg", "avif"):
        deep[:, width // 2 :] = rng.integers(0, 65536, 4)
    eight = (deep >> 8).astype(np.uint8)
    rgb = Image.fromarray(eight[..., :3])
    grey = kind in ("L", "LA", "1", "16L", "16LA", "F", "I")
    icc = profile("grey" if grey else str(rng.choice(["sRGB", "Display P3", "Adobe RGB"])))
    common = dict(icc_profile=icc, exif=camera_exif())
    with_dpi = dict(common, dpi=(300, 300))
    if kind.startswith("16"):
        samples = deep[..., : {"16L": 1, "16LA": 2, "16RGB": 3, "16RGBA": 4}[kind]]
        return "png", deep_png(samples, icc)
    if kind == "3F":
        return "tiff", deep_tiff(deep[..., :3] / np.float32(65535))
    image, name, options = {
        "1": (rgb.convert("1", dither=0), "png", with_dpi),
        "L": (Image.fromarray(eight[..., 0]), "tiff", with_dpi),
        "LA": (Image.fromarray(eight[..., :2]), "png", with_dpi),
        "P": (rgb.quantize(16), "png", with_dpi),
        "PA": (Image.fromarray(eight).quantize(16, Image.Quantize.FASTOCTREE), "png", with_dpi),
        "RGB": (rgb, "png", with_dpi),
        "RGBA": (Image.fromarray(eight), "tiff", with_dpi),
        "F": (Image.fromarray(deep[..., 0] / np.float32(65535)), "tiff", with_dpi),
        "I": (Image.fromarray(deep[..., 0].astype(np.int32)), "tiff", with_dpi),
        "jpeg": (rgb, "jpeg", dict(with_dpi, quality=100, subsampling=0)),
        "webp": (Image.fromarray(eight), "webp", dict(common, lossless=True, exact=True)),
        "bmp": (rgb, "bmp", dict(dpi=(300, 300))),
        "avif": (rgb, "avif", dict(common, quality=100)),
    }[kind]
    if name == "tiff":
        options = options | tiff_options(options.pop("exif"))
    return name, encode(image, FORMATS[name].name, **options)


def kept(data):
    """What a file has beside its values."""
    with Image.open(io.BytesIO(data)) as image:
        exif = image.getexif()
        place = exif.get_ifd(ExifTags.IFD.GPSInfo).get(ExifTags.GPS.GPSLatitude)
        taken = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
        dpi = image.info.get("dpi")
        return {
            "format": image.format,
            "mode": image.mode,
            "transparent": "transparency" in image.info,
            "icc": image.info.get("icc_profile"),
            "exif": (exif.get(ExifTags.Base.Make), place, taken),
            "dpi": None if dpi is None else tuple(round(n) for n in dpi),
        }


def test_two_hundred_random_sizes_and_modes_leave_as_they_came(tmp_path):
    """Mode, depth, profile, metadata as they were, twice the size, and colours within 1/255."""
    rng = np.random.default_rng(1)
    for number in range(200):
        kind = KINDS[number % len(KINDS)]
        name, data = random_file(rng, kind)
        got, notes = through(data, tmp_path / f"{number}{FORMATS[name].suffixes[0]}")
        before, after = values(data), values(got)
        height, width, channels = before.shape
        assert not notes
        assert (after.shape, after.dtype) == ((2 * height, 2 * width, channels), before.dtype)
        white = {"uint8": 255, "bool": 1, "float32": 1}.get(before.dtype.name, 65535)
        differs = np.abs(after.astype(np.float64) - before.repeat(2, 0).repeat(2, 1)) / white
        # Transparency, and what is outside of sRGB, are enlarged by a filter that sees both sides.
        far = np.abs(np.arange(2 * width) - 2 * (width // 2) + 0.5) > 8
        levels = 2 if FORMATS[name].lossy and kind != "webp" else 1  # its colours are coded again
        assert differs[:, far].max(initial=0) <= levels / 255 + 1e-6, (number, kind)
        if kind != "3F":  # which Pillow does not read
            assert kept(got) == kept(data), (number, kind)


@pytest.mark.parametrize("name", PRIMARIES)
@pytest.mark.parametrize("deep", [False, True])
def test_wide_colors_come_out_right(tmp_path, name, deep):
    """An image of another space and its sRGB version give the same image, within 2/255."""
    # Not too near to black and to the edge of the gamut, where a level of 8 bits is a large step.
    srgb = 0.2 + 0.6 * RNG.random((12, 14, 3))
    white = 65535 if deep else 255
    wide = np.round(np.clip(srgb_to(name, srgb), 0, 1) * white).astype("u2" if deep else "u1")
    plain = np.round(srgb * white).astype(wide.dtype)
    icc = profile(name)
    data = deep_png(wide, icc) if deep else encode(Image.fromarray(wide), "PNG", icc_profile=icc)
    photograph = decode_photograph(data)
    [frame] = photograph.frames
    assert frame.outside is None
    # What the networks see.
    assert np.abs(frame.rgb / 65535 - srgb).max() < (2e-4 if deep else 2 / 255)
    got = values(through(data, tmp_path / "a.png")[0])[::2, ::2]
    assert np.abs(got.astype(int) - wide).max() <= 1
    # To a format without profiles the colours go as sRGB.
    got = values(through(data, tmp_path / "a.bmp")[0])[::2, ::2]
    assert np.abs(got / 255 - plain / white).max() <= 2 / 255


def test_colors_outside_of_srgb_are_kept(tmp_path):
    """A pure red of Display P3, which no sRGB value is."""
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    data = encode(Image.fromarray(red), "PNG", icc_profile=profile("Display P3"))
    [frame] = decode_photograph(data).frames
    assert frame.outside is not None and frame.rgb.max() == 65535
    got = values(through(data, tmp_path / "a.png")[0])
    assert np.abs(got.astype(int) - [255, 0, 0]).max() <= 1


@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB", "grey"])
def test_profiles_are_applied_as_littlecms_does(name):
    icc = profile(name)
    own = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    colors = noise(3, 16, 16)
    if name == "grey":
        colors = np.repeat(colors[..., :1], 3, axis=2)
    srgb = ImageCms.createProfile("sRGB")
    source = Image.fromarray(colors[..., 0] if name == "grey" else colors)
    want = ImageCms.profileToProfile(
        source, own, srgb, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB"
    )
    opened = open_profile(icc, "GRAY" if name == "grey" else "RGB")
    got = opened.to_srgb(colors)
    # LittleCMS rounds on the way, and its result to 8 bits.
    assert np.abs(np.clip(got, 0, 1) * 255 - np.asarray(want)).max() < 1.1
    # Two levels of 16 bits.
    np.testing.assert_allclose(opened.from_srgb(got), colors / 255, atol=2 / 65535)


def test_profiles_of_srgb_need_nothing_and_others_of_the_wrong_kind_are_left_out():
    assert open_profile(profile("sRGB"), "RGB") is None
    assert open_profile(profile("sRGB"), "GRAY") is None
    for icc, space in (
        (profile("grey"), "RGB"),
        (b"x" * 300, "RGB"),
        (profile("grey")[:150], "GRAY"),
    ):
        with pytest.raises(BadProfile):
            open_profile(icc, space)
    data = encode(Image.fromarray(noise(0, 4, 4)), "PNG", icc_profile=b"x" * 300)
    photograph = decode_photograph(data)
    assert photograph.icc is None and "colour profile is left out" in photograph.notes[0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff"])
def test_the_orientation_is_applied_once(tmp_path, orientation, name):
    image = np.zeros((8, 24, 3), np.uint8)
    image[:, :8], image[:2] = (250, 20, 20), (20, 20, 250)
    options = {"jpeg": dict(quality=100, subsampling=0), "webp": dict(lossless=True)}.get(name, {})
    exif = camera_exif(orientation)
    data = encode(Image.fromarray(image), FORMATS[name].name, exif=exif, xmp=XMP, **options)
    # As Pillow turns it.
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        want = np.asarray(ImageOps.exif_transpose(opened))
    got, _ = through(data, tmp_path / f"a{FORMATS[name].suffixes[0]}")
    with Image.open(io.BytesIO(got)) as opened:
        opened.load()
        assert opened.getexif().get(ExifTags.Base.Orientation, 1) == 1
        assert b'Orientation="6"' not in (opened.info.get("xmp") or b"")
        assert np.abs(np.asarray(opened)[::2, ::2].astype(int) - want).max() <= 6


def test_metadata_are_kept_without_the_thumbnail_and_can_be_stripped(tmp_path):
    exif = camera_exif(thumbnail=True)
    data = encode(Image.fromarray(noise(0, 9, 11)), "JPEG", exif=exif, xmp=XMP, dpi=(300, 300))
    assert b"thumbnail" in data
    for suffix in (".jpg", ".png", ".webp", ".tif", ".avif"):
        got, notes = through(data, tmp_path / f"a{suffix}")
        assert not notes and b"thumbnail" not in got
        with Image.open(io.BytesIO(got)) as opened:
            opened.load()
            tags = opened.getexif()
            camera = tags.get_ifd(ExifTags.IFD.Exif)
            assert camera[ExifTags.Base.ExifImageWidth] == 22
            assert camera[ExifTags.Base.DateTimeOriginal] == "2024:05:06 07:08:09"
            assert tags.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] == (47, 30, 15)
            assert b"title" in opened.info["xmp"]
        stripped, _ = through(data, tmp_path / f"b{suffix}", Encoding(strip_metadata=True))
        with Image.open(io.BytesIO(stripped)) as opened:
            assert not opened.getexif().get_ifd(ExifTags.IFD.GPSInfo)
            assert "xmp" not in opened.info and b"Camera" not in stripped
    # From TIFF files, whose own structure is among the tags; turned and with a palette.
    for mode in ("RGB", "P"):
        image = Image.fromarray(noise(0, 9, 11)).convert(mode)
        tags = tiff_options(camera_exif(6))
        for suffix in (".jpg", ".tif"):
            got, _ = through(encode(image, "TIFF", **tags), tmp_path / f"c{suffix}")
            with Image.open(io.BytesIO(got)) as opened:
                opened.load()
                found = opened.getexif()
                assert opened.size == (18, 22)
                assert found.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] == (47, 30, 15)
                assert found[ExifTags.Base.Make] == "Camera"
                assert suffix == ".tif" or not {256, 258, 273} & set(found)
    _, notes = through(data, tmp_path / "a.bmp")
    assert notes == ["EXIF and XMP are left out in BMP"]


def test_damaged_exif_is_said():
    whole = camera_exif(6)
    whole = whole if isinstance(whole, bytes) else whole.tobytes()

    def read(exif):
        return decode_photograph(encode(Image.fromarray(noise(0, 9, 11)), "JPEG", exif=exif))

    assert not read(whole).notes
    read_in_part = 0
    for end in range(8, len(whole) - 8, 12):
        photograph = read(whole[:end])
        [note] = photograph.notes
        kept = photograph.metadata.exif is not None
        assert ("as far as they can be read" in note) == kept and "damaged EXIF data" in note
        read_in_part += kept
    assert read_in_part  # where the first directory is whole
    assert read(b"Exif\0\0nothing").notes == ("damaged EXIF data are left out",)


def test_no_fringes_where_it_is_transparent(tmp_path):
    """What is stored under full transparency does not reach what is seen."""
    rgba = np.zeros((16, 16, 4), np.uint8)  # black where it is transparent
    rgba[4:12, 4:12] = (200, 100, 50, 255)
    [frame] = decode_photograph(encode(Image.fromarray(rgba), "PNG")).frames
    assert (frame.rgb == (200, 100, 50)).all()
    got = values(through(encode(Image.fromarray(rgba), "PNG"), tmp_path / "a.png")[0])
    assert (got[..., :3] == (200, 100, 50)).all()
    assert got[0, 0, 3] == 0 and got[16, 16, 3] == 255
    opaque = rgba.copy()
    opaque[..., 3] = 255
    got = values(through(encode(Image.fromarray(opaque), "PNG"), tmp_path / "b.png")[0])
    assert (got[..., 3] == 255).all()
    got, notes = through(encode(Image.fromarray(rgba), "PNG"), tmp_path / "a.jpg")
    assert notes == ["transparency becomes white in JPEG"]
    assert values(got)[0, 0].min() >= 250


@pytest.mark.parametrize("channels", [1, 3])
def test_one_transparent_value_of_16_bits(tmp_path, channels):
    samples = RNG.integers(0, 65536, (12, 12, channels)).astype(np.uint16)
    samples[:6] = samples[0, 0]
    data = deep_png(samples, key=samples[0, 0].astype(">u2").tobytes())
    alpha = values(through(data, tmp_path / "a.png")[0])[..., -1]
    assert (alpha[:8] == 0).all() and (alpha[-8:] == 65535).all()


def test_transparency_is_enlarged_by_strips_as_in_one(tmp_path):
    """Larger than a strip; Pillow's enlargement of the whole is the reference."""
    y, x = np.mgrid[:301, :40]
    alpha = (127 + 120 * np.sin(x / 3 + y / 4)).astype(np.uint8)
    data = encode(Image.fromarray(np.dstack([noise(0, 301, 40), alpha])), "PNG")
    photograph = decode_photograph(data)
    large = np.zeros((301 * 3 + 1, 100, 3), np.uint8)
    write_photograph(tmp_path / "a.png", photograph, [large], "png", Encoding())
    got = values((tmp_path / "a.png").read_bytes())[..., 3]
    whole = Image.fromarray(alpha.astype(np.float32)).resize((100, 904), Image.Resampling.BICUBIC)
    want = np.clip(np.asarray(whole), 0, 255)
    assert np.abs(got - want).max() <= 0.51


def test_palettes_with_one_transparent_entry_stay_palettes(tmp_path):
    image = Image.fromarray(noise(0, 60, 60)).quantize(200)
    data = encode(image, "PNG", transparency=3)
    got, notes = through(data, tmp_path / "a.png")
    with Image.open(io.BytesIO(got)) as opened:
        assert opened.mode == "P" and not notes
        alpha = np.asarray(opened.convert("RGBA"))[..., 3]
    assert set(np.unique(alpha)) == {0, 255}


def test_cmyk_becomes_rgb_and_says_how(tmp_path):
    data = encode(Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "TIFF")
    got, notes = through(data, tmp_path / "a.tif")
    assert values(got)[0, 0].tolist() == [0, 255, 255]
    assert notes == ["CMYK becomes RGB without a profile, so only roughly"]
    ink = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    data = encode(ink, "TIFF", icc_profile=table_profile("CMYK"))
    got, notes = through(data, tmp_path / "b.tif")
    assert notes == ["CMYK becomes RGB through its profile"]
    # L* = 50 in sRGB; the profile is not that of the output.
    assert np.abs(values(got).astype(int) - 119).max() <= 1
    with Image.open(io.BytesIO(got)) as opened:
        assert "icc_profile" not in opened.info


@pytest.mark.parametrize("deep", [False, True])
def test_profiles_with_tables(tmp_path, deep):
    """Their colours pass in 8 bits."""
    lab = np.full((4, 5, 3), (128, 140, 120), np.uint8)
    icc = table_profile("RGB")
    data = encode(Image.fromarray(lab), "PNG", icc_profile=icc)
    if deep:
        data = deep_png(lab * np.uint16(257), icc)
    [frame] = decode_photograph(data).frames
    assert np.abs(frame.rgb[0, 0] / 257 - (137, 113, 133)).max() < 8  # a reddish grey
    got, notes = through(data, tmp_path / "a.png")
    assert not notes
    assert np.abs(values(got)[0, 0] / (257 if deep else 1) - lab[0, 0]).max() <= 1.5


@pytest.mark.parametrize(
    ("low", "high", "white_and_black"),
    [(0.0, 1.0, (1.0, 0.0)), (0.2, 0.7, (1.0, 0.0)), (-2.0, 6.0, (6.0, -2.0))],
)
def test_floating_point_values_are_scaled_by_the_rule(tmp_path, low, high, white_and_black):
    values_ = np.linspace(low, high, 64, dtype=np.float32).reshape(8, 8)
    data = encode(Image.fromarray(values_), "TIFF")
    photograph = decode_photograph(data)
    np.testing.assert_allclose(photograph.frames[0].white_and_black, white_and_black, rtol=1e-6)
    got = values(through(data, tmp_path / "a.tif")[0])[::2, ::2, 0]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, values_, atol=(white_and_black[0] - white_and_black[1]) / 65535)
    pages = [Image.fromarray(page) for page in (values_, 5 * values_ + 3)]
    several = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    got, _ = through(several, tmp_path / "b.tif", all_frames=True)
    with Image.open(io.BytesIO(got)) as opened:
        for number, page in enumerate(pages):
            opened.seek(number)
            spread = max(np.ptp(np.asarray(page)), 1)
            np.testing.assert_allclose(np.asarray(opened)[::2, ::2], page, atol=spread / 32767)
    with pytest.raises(BadImage, match="not finite"):
        decode_photograph(encode(Image.fromarray(values_ / 0), "TIFF"))


def test_what_a_format_cannot_keep_is_said(tmp_path):
    deep = deep_png(RNG.integers(0, 65536, (4, 4, 1)).astype(np.uint16))
    assert through(deep, tmp_path / "a.jpg")[1] == ["16 bits become 8 in JPEG"]
    bilevel = encode(Image.new("1", (4, 4)), "PNG")
    assert "1 bit becomes greyscale" in through(bilevel, tmp_path / "b.jpg")[1][0]
    wide = encode(Image.new("RGB", (4, 4)), "PNG", icc_profile=profile("Display P3"))
    assert "profile becomes sRGB" in through(wide, tmp_path / "c.bmp")[1][0]


def test_sizes_that_a_format_has_not_are_said_before(tmp_path):
    for name, limit in (("webp", 16_383), ("jpeg", 65_500), ("avif", 32_768)):
        check_fits(name, limit, 1)
        with pytest.raises(UserError, match=f"{limit + 1}x1 px is too large for .* {limit} px"):
            check_fits(name, limit + 1, 1)
    # The limits are the writers' own.
    for name in ("webp", "jpeg"):
        limit = FORMATS[name].max_side
        encode(Image.new("L", (limit, 1)), FORMATS[name].name)
        with pytest.raises((ValueError, OSError)):
            encode(Image.new("L", (limit + 1, 1)), FORMATS[name].name)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(format="gif"), "`format` gif is not written; choose one of png, jpeg"),
        (dict(quality=0), "`quality` 0 is not between 1 and 100"),
        (dict(quality=90, format="png"), "`quality` has no effect on PNG"),
    ],
)
def test_encodings_without_effect_are_refused(options, match):
    with pytest.raises(UserError, match=match):
        Encoding(**options)


@pytest.mark.parametrize("name", ["png", "webp", "tiff", "gif"])
def test_the_first_frame_or_all(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    options = {"webp": dict(lossless=True, duration=70), "png": dict(duration=70), "gif": {}}
    data = encode(
        frames[0], name.upper(), save_all=True, append_images=frames[1:], **options.get(name, {})
    )
    suffix = ".png" if name == "gif" else FORMATS[name].suffixes[0]
    got, notes = through(data, tmp_path / f"a{suffix}")
    assert "the first of its 3 frames is taken" in notes[0]
    with Image.open(io.BytesIO(got)) as opened:
        assert getattr(opened, "n_frames", 1) == 1
    got, notes = through(data, tmp_path / f"b{suffix}", all_frames=True)
    assert not notes
    with Image.open(io.BytesIO(got)) as opened:
        opened.load()
        assert opened.n_frames == 3
        if name in ("png", "webp"):
            assert opened.info["duration"] == 70
        opened.seek(2)
        assert np.abs(np.asarray(opened.convert("RGB"))[5, 5].astype(int) - (0, 128, 0)).max() <= 1


def test_a_damaged_later_frame_does_not_cost_the_first():
    frames = [Image.fromarray(noise(n, 64, 64)) for n in range(3)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as opened:
        first = np.asarray(opened.convert("RGB"))
    [frame] = decode_photograph(data[: len(data) * 2 // 3]).frames
    np.testing.assert_array_equal(frame.rgb, first)


def test_frames_are_counted_before_they_are_decoded(monkeypatch):
    frames = [Image.fromarray(noise(n, 64, 64)) for n in range(3)]
    data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    assert len(decode_photograph(data).frames) == 1
    with pytest.raises(BadImage, match="too many pixels in its 3 frames"):
        decode_photograph(data, all_frames=True)
