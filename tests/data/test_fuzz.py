"""500 damaged, truncated and odd images: no crash anywhere, and each is accounted for."""

from collections import Counter

import numpy as np
import pytest

from tests.data.test_pipeline import config
from tests.data.test_preparation import prepare, records
from tests.support.image_files import odd_images
from tvt_jax.data.pipeline import batches
from tvt_jax.data.preparation.runners import run_in_processes
from tvt_jax.images import BadImage, decode_image

COUNT = 500
CROP = 16


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """(folder, content by name)."""
    folder, files = tmp_path_factory.mktemp("in") / "odd", odd_images(COUNT)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    assert len(set(files.values())) == COUNT
    return folder, files


@pytest.fixture(scope="module")
def prepared(odd, tmp_path_factory):
    output = tmp_path_factory.mktemp("shards")
    return output, prepare(output, odd[0], shard_size=50, run=run_in_processes(2, True))


def names(entries):
    return [entry["name"].removeprefix("odd/") for entry in entries]


def test_prepare_accounts_for_each(odd, prepared):
    output, manifest = prepared
    counts = manifest["images"]
    assert counts["found"] == COUNT
    assert counts["stored"] + counts["failed"] == COUNT
    assert counts["stored"] > 100 and counts["failed"] > 100
    stored = names([{"name": record.name} for record in records(output)])
    failed = names(manifest["failed"])
    assert sorted(stored + failed) == sorted(odd[1])
    assert all(len(entry["reason"]) > 3 for entry in manifest["failed"])


def test_sound_images_are_stored_and_what_is_none_is_not(prepared):
    stored = set(names([{"name": record.name} for record in records(prepared[0])]))
    sound = """one_pixel.png line.png grey.jpg grey_alpha.png bilevel.png alpha.png alpha.webp
        palette.png palette_transparent.png cmyk.jpg cmyk.tif progressive.jpg animated.gif
        animated.webp animated.png pages.tif plain.bmp plain.ppm plain.tga plain.jp2 plain.avif
        wrong_suffix.jpg damaged_exif.jpg damaged_icc.jpg turned_6.jpg sixteen_bits_1.png
        sixteen_bits_3.tiff megapixels_100.png""".split()
    assert set(sound) <= stored
    none = """empty.png text.jpg program.jpg archive.png megapixels_200.png lab.tif
        floating_point.tif lies_about_its_size.bmp""".split()
    assert not set(none) & stored


def test_training_meets_no_failure_in_what_was_prepared(prepared):
    skipped = read_an_epoch(prepared[0], len(records(prepared[0])))
    # Only what is smaller than the crop, which `prepare` was not asked to leave out.
    assert {reason.split(",")[-1] for reason in skipped.values()} == {" smaller than 16"}


def test_training_on_the_files_accounts_for_each(odd, prepared, tmp_path):
    """In an epoch every image is tried once: what is skipped is what cannot be used."""
    files = {name: data for name, data in odd[1].items() if name != "megapixels_100.png"}  # slow
    unusable = set()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        try:
            decode_image(data, min_side=CROP)
        except BadImage:
            unusable.add(name)
    skipped = read_an_epoch(tmp_path, len(files))
    assert {name.removeprefix(f"{tmp_path}/") for name in skipped} == unusable
    assert set(names(prepared[1]["failed"])) <= unusable


def read_an_epoch(folder, count):
    """Reads each image of a folder at least once; returns the reason for each skipped one."""
    lines = []
    settings = config(folder, crop=CROP, batch_size=10, max_failed=1.0)
    with batches(settings, 0, 0, lines.append, (0, 1)) as stream:
        for _ in range(-(-count // 10)):
            batch = next(stream)["hr"]
            assert batch.shape == (10, CROP, CROP, 3) and np.isfinite(batch).all()
    skipped = [line.removeprefix("skipped ") for line in lines if line.startswith("skipped ")]
    found = dict(line.split(": ", 1) for line in skipped)
    assert max(Counter(skipped).values()) == 1 and len(found) == len(skipped)
    return found
