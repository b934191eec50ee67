"""`prepare`: nothing lost, nothing doubled, everything accounted for, whatever interrupts it."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import encode, noise, write_images
from tests.support.memory_bucket import memory_bucket
from tvt_jax.data.preparation.prepare import Settings, prepare_shards
from tvt_jax.data.preparation.runners import run_in_processes, run_in_threads
from tvt_jax.data.preparation.shard_writer import Filters, write_shard
from tvt_jax.data.records import decode_record
from tvt_jax.data.sources import ShardSource
from tvt_jax.errors import UserError
from tvt_jax.images import decode_image

ROOT = Path(__file__).parent.parent.parent
HERE = run_in_processes(1, True)


def prepare(output, *inputs, run=HERE, write=write_shard, max_left_out=1.0, **options):
    """The images of these tests are small."""
    options = {"filters": Filters(min_side=1), **options}
    settings = Settings(input=tuple(map(str, inputs)), **options)
    return prepare_shards(str(output), settings, run, write, max_left_out)


def records(output):
    """All records of a folder of shards, read by ArrayRecord's own reader."""
    from array_record.python.array_record_module import ArrayRecordReader

    found = []
    for path in sorted((Path(output) / "shards").glob("*.array_record")):
        reader = ArrayRecordReader(str(path))
        found += [decode_record(data) for data in reader.read_all()]
        reader.close()
    return found


def files(output):
    """Content of every file that is not hidden, by relative path."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(Path(output).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("in") / "photos", 9, 60, 90)


# --------------------------------------------------------------------------------------------------
# What is stored
# --------------------------------------------------------------------------------------------------


def test_files_are_stored_byte_for_byte(tmp_path, folder):
    manifest = prepare(tmp_path, folder, shard_size=4, licence="CC0")
    found = records(tmp_path)
    assert [record.name for record in found] == [f"photos/{n:03d}.png" for n in range(9)]
    for record in found:
        content = (folder.parent / record.name).read_bytes()
        assert record.image == content and record.lr is None and record.tags is None
        assert record.sha256 == hashlib.sha256(content).hexdigest()
        assert (record.width, record.height, record.tile) == (90, 60, None)
    assert manifest == json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["images"] == {
        "found": 9, "stored": 9, "failed": 0, "filtered": 0, "duplicates": 0,
    }  # fmt: skip
    assert manifest["record_count"] == 9 and manifest["licence"] == "CC0"
    assert manifest["shorter_side"] == {"min": 60, "max": 60}
    assert [shard["records"] for shard in manifest["shards"]] == [4, 4, 1]
    for shard in manifest["shards"]:
        content = (tmp_path / shard["file"]).read_bytes()
        assert len(content) == shard["bytes"]
        assert hashlib.sha256(content).hexdigest() == shard["sha256"]
    assert not (tmp_path / "plan.json").exists() and not (tmp_path / "work").exists()


def test_training_reads_what_was_stored(tmp_path, folder):
    prepare(tmp_path, folder, shard_size=4)
    source = ShardSource(str(tmp_path))
    assert len(source) == 9 and not source.paired
    assert [source.read(i).name for i in range(9)] == [r.name for r in records(tmp_path)]
    assert source.name(8).endswith("shards/part-00002-of-00003.array_record")
    assert source.name(8).startswith("record 0 of")


def test_tiles_cover_the_image(tmp_path, folder):
    manifest = prepare(tmp_path, folder, filters=Filters(crop=32, min_side=1))
    assert manifest["record_count"] == 9 * 2 * 3
    covered = np.zeros((60, 90), int)
    for record in records(tmp_path):
        left, top = record.tile
        tile = decode_image(record.image).pixels
        number = int(record.name[-7:-4])
        want = noise(number, 60, 90)[top : top + 32, left : left + 32]
        assert tile.shape == (32, 32, 3)
        np.testing.assert_array_equal(tile, want)
        assert record.sha256 == hashlib.sha256(record.image).hexdigest()
        if number == 0:
            covered[top : top + 32, left : left + 32] += 1
    assert covered.min() == 1 and covered.max() <= 4


def test_equal_files_are_stored_once(tmp_path, folder):
    copies = tmp_path / "copies"
    copies.mkdir()
    for name in ("000.png", "005.png"):
        (copies / name).write_bytes((folder / name).read_bytes())
    manifest = prepare(tmp_path / "out", folder, copies)
    assert manifest["images"]["duplicates"] == 2 and manifest["record_count"] == 9
    assert manifest["duplicates"][1] == {"name": "copies/005.png", "same_as": "photos/005.png"}


def test_names_tell_the_inputs_apart(tmp_path, monkeypatch):
    for name in ("a/train", "b/train", "c"):
        write_images(tmp_path / name, 1, 20 + len(name), 20)
    monkeypatch.chdir(tmp_path / "c")
    prepare(tmp_path / "one", ".")
    assert [record.name for record in records(tmp_path / "one")] == ["c/000.png"]
    prepare(tmp_path / "two", "../a/train/", ".")
    assert [r.name for r in records(tmp_path / "two")] == ["train/000.png", "c/000.png"]
    with pytest.raises(UserError, match="names a folder twice"):
        prepare(tmp_path / "three", ".", tmp_path / "c")
    write_images(tmp_path / "b/train", 1, 40, 40)
    manifest = prepare(tmp_path / "four", "../a/train", "../b/train")
    assert [r.name for r in records(tmp_path / "four")] == [
        "../a/train/000.png",
        "../b/train/000.png",
    ], manifest


def test_filters_name_what_they_leave_out(tmp_path):
    folder = write_images(tmp_path / "in", 2, 40, 40)
    Image.fromarray(noise(9, 39, 50)).save(folder / "small.png")
    # Grain of a camera in a sky: 1.5 levels; and a texture of 12 levels.
    rng = np.random.default_rng(0)
    for name, deviation in (("sky", 1.5), ("wall", 12.0)):
        levels = 120 + rng.normal(0, deviation, (64, 64, 1)).repeat(3, axis=2)
        Image.fromarray(levels.round().astype(np.uint8)).save(folder / f"{name}.png")
    half = noise(10, 64, 64)
    half[:, :32] = 120
    Image.fromarray(half).save(folder / "half.png")
    manifest = prepare(tmp_path / "a", folder, filters=Filters(min_side=40, max_flat=0.5))
    assert manifest["filtered"] == [
        {"name": "in/sky.png", "reason": "more than 50% of it is flat"},
        {"name": "in/small.png", "reason": "50x39 px, smaller than 40"},
    ]
    assert manifest["images"]["stored"] == 4
    tiles = prepare(tmp_path / "b", folder, filters=Filters(crop=32, min_side=1, max_flat=0.5))
    stored = {(record.name, record.tile) for record in records(tmp_path / "b")}
    assert ("in/half.png", (32, 0)) in stored and ("in/half.png", (0, 0)) not in stored
    assert {"name": "in/sky.png", "reason": "more than 50% of every tile is flat"} in tiles[
        "filtered"
    ]


def test_larger_images_are_shrunk_on_request(tmp_path, folder):
    """By Lanczos' filter, to the shorter side; smaller ones stay as they are."""
    large = noise(5, 130, 260)
    Image.fromarray(large).save(write_images(tmp_path / "in", 1, 60, 64) / "large.png")
    filters = Filters(min_side=60, resize=65)
    assert prepare(tmp_path / "a", tmp_path / "in", filters=filters)["record_count"] == 2
    small, shrunk = records(tmp_path / "a")
    assert small.image == (tmp_path / "in" / "000.png").read_bytes()
    assert (shrunk.width, shrunk.height) == (130, 65)
    assert shrunk.sha256 == hashlib.sha256(shrunk.image).hexdigest()
    # Lanczos' filter of three lobes, for a half: the taps by its formula, in the middle.
    offsets = (np.arange(-6, 6) + 0.5) / 2
    taps = np.sinc(offsets) * np.sinc(offsets / 3)
    taps /= taps.sum()
    columns = [np.einsum("k,akc->ac", taps, large[:, 2 * x - 5 : 2 * x + 7]) for x in range(10, 90)]
    # Pillow clips and rounds after each direction.
    wide = np.clip(np.rint(np.stack(columns, 1)), 0, 255)
    rows = [np.einsum("k,kac->ac", taps, wide[2 * y - 5 : 2 * y + 7]) for y in range(10, 20)]
    got = decode_image(shrunk.image).pixels[10:20, 10:90]
    assert np.abs(got - np.clip(np.stack(rows), 0, 255)).max() <= 0.6
    tiles = prepare(tmp_path / "b", tmp_path / "in", filters=Filters(32, 32, resize=65))
    assert tiles["record_count"] == 4 + 3 * 5


def test_real_ce_is_three_pairs_a_scene(tmp_path):
    """Each focal length reduced to a quarter, of the scenes that the data set lists."""
    from tvt_jax.config import DataConfig
    from tvt_jax.data.sources import open_sources

    for number, focal_length in enumerate((13, 26, 52)):
        for half in ("train", "val"):
            write_images(tmp_path / f"RealCE/{half}/{focal_length}mm", 3, 66, 80 + number)
    (tmp_path / "RealCE/train/valid_list.txt").write_text("000.png\n002.png\n")
    manifest = prepare(tmp_path / "out", tmp_path / "RealCE", pairs="realce")
    assert manifest["record_count"] == 6 and not manifest["failed"]
    (source,) = open_sources(DataConfig(train=str(tmp_path / "RealCE"), pairs="realce"))
    assert source.paired and len(source) == 6
    for index, record in enumerate(records(tmp_path / "out")):
        sample = source.read(index)
        assert (sample.image, sample.lr) == (record.image, record.lr)
        lr = decode_image(record.lr).pixels
        assert lr.shape == (16, 20, 3) and record.name.startswith("RealCE/train/")
    names = [record.name.removeprefix("RealCE/train/") for record in records(tmp_path / "out")]
    assert names == [f"{f}mm/{n}.png" for n in ("000", "002") for f in (13, 26, 52)]


@pytest.mark.parametrize("crop", [0, 32])
def test_pairs_are_stored_together(tmp_path, folder, crop):
    lr_folder = tmp_path / "lr"
    lr_folder.mkdir()
    for number in range(8):  # the ninth has no partner
        small = noise(number, 60, 90)[::4, ::4]
        Image.fromarray(small).save(lr_folder / f"{number:03d}.tif")
    Image.fromarray(noise(7, 20, 20)).save(lr_folder / "007.tif")
    manifest = prepare(
        tmp_path / "out",
        folder,
        paired_lr=(str(lr_folder),),
        filters=Filters(crop=crop, min_side=1),
    )
    assert manifest["settings"]["paired"] is True
    assert [entry["name"] for entry in manifest["failed"]] == ["photos/008.png", "photos/007.png"]
    found = records(tmp_path / "out")
    assert len({record.name for record in found}) == 7
    for record in found:
        hr, lr = decode_image(record.image).pixels, decode_image(record.lr).pixels
        np.testing.assert_array_equal(lr, hr[::4, ::4])


def test_tags_are_stored(tmp_path, folder):
    calls = []

    def tag_images(images):
        calls.append(len(images))
        assert all(image.dtype == np.uint8 and image.shape == (60, 90, 3) for image in images)
        return [[f"first {image[0, 0, 0]}", "second"] for image in images]

    def write(task):
        write_shard(task, tag_images)

    prepare(tmp_path, folder, run=run_in_threads(2, True), write=write, tagger="ram")
    assert calls == [8, 1]
    for record in records(tmp_path):
        pixels = decode_image(record.image).pixels
        assert record.tags == (f"first {pixels[0, 0, 0]}", "second")


def test_the_command_loads_the_tagger(tmp_path, folder, monkeypatch):
    from types import ModuleType

    from tvt_jax.prepare import prepare as main

    def load_tagger(path):
        assert path == Path("ram")
        return lambda images: [["tag"]] * len(images)

    module = ModuleType("tvt_jax.inference.tagging")
    module.load_tagger = load_tagger
    monkeypatch.setitem(sys.modules, module.__name__, module)
    main([str(folder)], str(tmp_path), tag_with=Path("ram"), min_side=1, quiet=True)
    assert all(record.tags == ("tag",) for record in records(tmp_path))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["settings"]["tagger"] == "ram"


def test_conversions_and_failures_are_in_the_manifest(tmp_path):
    folder = write_images(tmp_path / "in", 2)
    Image.fromarray(noise(5)).convert("L").save(folder / "grey.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"x")
    manifest = prepare(tmp_path / "out", folder)
    assert manifest["images"]["found"] == 4 and manifest["images"]["stored"] == 3
    assert manifest["converted"] == {"greyscale to RGB": 1}
    assert manifest["failed"] == [{"name": "in/broken.jpg", "reason": "unknown format or damaged"}]


# --------------------------------------------------------------------------------------------------
# The same result in every way
# --------------------------------------------------------------------------------------------------


def test_processes_and_threads_write_the_same_bytes(tmp_path, folder):
    prepare(tmp_path / "one", folder, shard_size=2)
    prepare(tmp_path / "two", folder, shard_size=2, run=run_in_processes(2, True))
    prepare(tmp_path / "three", folder, shard_size=2, run=run_in_threads(3, True))
    assert files(tmp_path / "one") == files(tmp_path / "two") == files(tmp_path / "three")


def test_a_finished_preparation_is_left_alone(tmp_path, folder):
    first = prepare(tmp_path, folder)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}

    def nobody(function, tasks, what):
        raise AssertionError

    assert prepare(tmp_path, folder, run=nobody) == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


class _Interrupted(Exception):
    pass


def test_stopped_after_any_task_it_ends_alike(tmp_path, folder):
    prepare(tmp_path / "whole", folder, shard_size=2)
    for allowed in range(6):
        done = 0

        def run(function, tasks, what, allowed=allowed):
            nonlocal done
            for task in tasks:
                if done == allowed:
                    raise _Interrupted
                function(task)
                done += 1

        output = tmp_path / str(allowed)
        with pytest.raises(_Interrupted):
            prepare(output, folder, shard_size=2, run=run)
        with pytest.raises(UserError, match="half prepared|manifest|is damaged"):
            open_for_training(output)
        counted = []

        def count(function, tasks, what, counted=counted):
            counted.append(len(tasks))
            HERE(function, tasks, what)

        prepare(output, folder, shard_size=2, run=count)
        assert sum(counted) == 6 - allowed  # 1 of hashes, 5 shards
        assert files(output) == files(tmp_path / "whole")


def open_for_training(output):
    from tvt_jax.config import DataConfig
    from tvt_jax.data.sources import open_sources

    return open_sources(DataConfig(train=str(output)))


def test_damaged_leftovers_are_written_again(tmp_path, folder):
    prepare(tmp_path / "whole", folder, shard_size=2)

    def stop(function, tasks, what):
        HERE(function, tasks, what)
        if what == "writing shards":
            raise _Interrupted

    output = tmp_path / "damaged"
    with pytest.raises(_Interrupted):
        prepare(output, folder, shard_size=2, run=stop)
    shards = sorted((output / "shards").glob("*.array_record"))
    shards[0].write_bytes(shards[0].read_bytes()[:-1000])  # shorter
    shards[1].unlink()
    shards[2].with_suffix(".json").write_text("{")
    shards[3].write_bytes(bytes(shards[3].stat().st_size))  # no ArrayRecord any more
    (output / "shards" / ".half.partial-1").write_bytes(b"x")
    prepare(output, folder, shard_size=2)
    assert files(output) == files(tmp_path / "whole")
    assert not (output / "shards" / ".half.partial-1").exists()


def command(output, folder, *options):
    return [
        sys.executable, "-m", "tvt_jax.prepare", "--input", str(folder), "--output", str(output),
        "--shard-size", "2", "--crop", "64", "--quiet", *options,
    ]  # fmt: skip


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_alike(tmp_path, jobs):
    """SIGKILL again and again, until a run lives long enough to finish."""
    folder = write_images(tmp_path / "photos", 30, 300, 300)
    settings = Settings((str(folder),), filters=Filters(crop=64), shard_size=2)
    prepare_shards(str(tmp_path / "whole"), settings, HERE)
    rng, output, kills = np.random.default_rng(0), tmp_path / "killed", 0
    while not (output / "manifest.json").exists():
        process = subprocess.Popen(command(output, folder, "--jobs", jobs), cwd=ROOT)
        # From when it works: a little later each time, so that it ends.
        _wait_for(process, output / "plan.json")
        try:
            process.wait(0.2 * kills * rng.random() + 0.05)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.wait()
        assert process.returncode in (0, -signal.SIGKILL)
    assert kills >= 3
    assert files(output) == files(tmp_path / "whole")
    names = [(record.name, record.tile) for record in records(output)]
    assert len(names) == len(set(names)) == 30 * 25


def _wait_for(process, path):
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


# --------------------------------------------------------------------------------------------------
# Buckets
# --------------------------------------------------------------------------------------------------


def test_buckets_are_read_and_written(tmp_path, folder):
    """A file system in memory stands for Google's; only ArrayRecord's own reading is left out."""
    with memory_bucket() as bucket:
        for path in folder.iterdir():
            bucket.pipe_file(f"gs://data/in/photos/{path.name}", path.read_bytes())
        bucket.pipe_file("gs://data/in/photos/sub/.x/hidden.png", b"x")
        bucket.pipe_file("gs://data/in/photos/sub/z.png", encode(Image.fromarray(noise(50)), "PNG"))
        manifest = prepare("gs://data/out", "gs://data/in/photos", shard_size=4)
        assert manifest["images"]["stored"] == 10
        assert not bucket.exists("gs://data/out/plan.json")
        for path in bucket.find("gs://data/out"):
            target = tmp_path / path.removeprefix("/data/out/")
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(bucket.cat_file(path))
        found = records(tmp_path)
        assert [record.name for record in found][-2:] == ["photos/008.png", "photos/sub/z.png"]
        assert prepare("gs://data/out", "gs://data/in/photos", shard_size=4) == manifest
        with pytest.raises(UserError, match="gs://data/none is not a folder"):
            prepare("gs://data/out2", "gs://data/none")

        from tests.data.test_pipeline import config, take

        from_bucket = take(3, config("gs://data/in/photos"))
        (tmp_path / "local/sub").mkdir(parents=True)
        for path in bucket.find("gs://data/in/photos"):
            if "hidden" not in path:
                target = tmp_path / "local" / path.removeprefix("/data/in/photos/")
                target.write_bytes(bucket.cat_file(path))
        for one, other in zip(from_bucket, take(3, config(tmp_path / "local")), strict=True):
            np.testing.assert_array_equal(one["hr"], other["hr"])


# --------------------------------------------------------------------------------------------------
# Mistakes
# --------------------------------------------------------------------------------------------------


def test_another_preparation_in_the_same_folder_is_refused(tmp_path, folder):
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in folder.iterdir():
        (photos / path.name).write_bytes(path.read_bytes())
    prepare(tmp_path / "out", photos)
    with pytest.raises(UserError, match="another preparation .*crop.*0.*then.*16.*now"):
        prepare(tmp_path / "out", photos, filters=Filters(crop=16, min_side=1))
    (photos / "new.png").write_bytes(encode(Image.fromarray(noise(77)), "PNG"))
    with pytest.raises(UserError, match="images were added or removed since"):
        prepare(tmp_path / "out", photos)


def test_two_runs_at_once_are_refused(tmp_path, folder):
    def run(function, tasks, what):
        with pytest.raises(UserError, match="another run is writing"):
            prepare(tmp_path, folder)
        HERE(function, tasks, what)

    prepare(tmp_path, folder, run=run)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    """A limit on the size of files stands for the disk."""
    folder = write_images(tmp_path / "photos", 6, 300, 300)  # 270 kB each
    code = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
from tvt_jax.cli import run
from tvt_jax.prepare import prepare
run(prepare, prog="prepare")
"""
    options = ["--input", str(folder), "--output", str(tmp_path / "out"), "--jobs", "1", "--quiet"]
    full = [sys.executable, "-c", code, *options, "--shard-size", "2"]
    done = subprocess.run(full, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "cannot write" in done.stderr
    assert not [p for p in (tmp_path / "out" / "shards").iterdir() if p.suffix == ".json"]
    plain = [sys.executable, "-m", "tvt_jax.prepare", *options, "--shard-size", "2"]
    assert subprocess.run(plain, cwd=ROOT).returncode == 0
    assert len(records(tmp_path / "out")) == 6


def test_images_that_change_meanwhile_are_not_stored(tmp_path):
    folder = write_images(tmp_path / "in", 3)

    def run(function, tasks, what):
        if what == "writing shards":
            (folder / "001.png").write_bytes(encode(Image.fromarray(noise(9)), "PNG"))
            (folder / "002.png").unlink()
        HERE(function, tasks, what)

    manifest = prepare(tmp_path / "out", folder, run=run)
    reasons = [entry["reason"] for entry in manifest["failed"]]
    assert "changed while" in reasons[0] and "No such file" in reasons[1]
    assert manifest["images"]["stored"] == 1


def test_a_set_of_which_most_is_left_out_is_refused(tmp_path):
    """And nothing is done twice when that is allowed."""
    folder = write_images(tmp_path / "in", 2, 64, 64)
    for number in range(3):
        Image.fromarray(noise(9 + number, 64, 63)).save(folder / f"small_{number}.png")
    (folder / "broken.png").write_bytes(b"x")
    settings = Settings((str(folder),))
    message = "4 of the 6 images are left out, more than `max_left_out` 0.5 allows: 3 x 63x64 px"
    with pytest.raises(UserError, match=message):
        prepare_shards(str(tmp_path / "out"), settings, HERE)
    with pytest.raises(UserError, match="half prepared"):
        open_for_training(tmp_path / "out")

    def nothing_left(function, tasks, what):
        assert not tasks

    manifest = prepare_shards(str(tmp_path / "out"), settings, nothing_left, max_left_out=0.7)
    assert manifest["images"]["stored"] == manifest["record_count"] == 2
    assert len(open_for_training(tmp_path / "out")[0]) == 2


def test_a_damaged_or_missing_shard_is_named_before_training(tmp_path, folder):
    prepare(tmp_path, folder, shard_size=4)
    shard = tmp_path / "shards" / "part-00001-of-00003.array_record"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(UserError, match=rf"part-00001.* has {len(content) - 1} bytes, not"):
        open_for_training(tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match=r"part-00001-of-00003.array_record is missing"):
        open_for_training(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged: run `python"):
        open_for_training(tmp_path)


@pytest.mark.parametrize("file", ["manifest.json", "plan.json"])
def test_shards_of_another_version_are_refused(tmp_path, folder, file):
    """Neither trained on nor mixed with new ones."""
    (tmp_path / file).write_text(json.dumps({"format": "tvt_jax shards 1", "fingerprint": ""}))
    with pytest.raises(UserError, match='has "tvt_jax shards 1" and not "tvt_jax shards 2": run'):
        prepare(tmp_path, folder)
    with pytest.raises(UserError, match="shards 1|half prepared"):
        open_for_training(tmp_path)


def test_a_damaged_record_is_skipped(tmp_path, folder):
    from tests.data.test_pipeline import config, take

    prepare(tmp_path, folder)
    shard = next((tmp_path / "shards").glob("*.array_record"))
    content = bytearray(shard.read_bytes())
    place = content.find(noise_bytes := (folder / "004.png").read_bytes()[100:140])
    assert place > 0 and len(noise_bytes) == 40
    content[place] ^= 255
    shard.write_bytes(bytes(content))
    lines = []
    take(5, config(tmp_path, max_failed=0.5), report=lines.append)
    assert len(lines) == 1 and "record 4 of" in lines[0]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--input", "/no/such"], "/no/such is not a folder"),
        (["--input", "{empty}"], "has no images"),
        (["--input", "{in}", "{in}"], "names a folder twice"),
        (["--input", "gs://bucket/x"], "pip install gcsfs"),
        (["--input", "{in}", "--crop", "4096"], "none of the 9 images is left: 9 x 90x60 px"),
        (["--input", "{in}", "--crop", "-1"], "--crop and --resize must not be negative"),
        (["--input", "{in}", "--max-flat", "7"], "--max-flat 7.0 is not between"),
        (["--input", "{in}", "--jobs", "-2"], "--jobs -2"),
        (["--input", "{in}"], "none of the 9 images is left: 9 x 90x60 px, smaller than 64"),
        (["--input", "{in}", "--resize", "32"], "--resize must be at least --crop and --min-side"),
        (["--input", "{in}", "--resize", "512", "--paired-lr", "{in}"], "--resize is for images"),
        (["--input", "{in}", "--paired-lr", "a", "b"], "--paired-lr has 2 folders for 1"),
        (["--input", "{in}", "--paired-lr", "/no/such"], "/no/such is not a folder"),
        (["--input", "{in}", "--pairs", "realsr"], "no images in the layout of realsr"),
        (["--input", "{in}", "--runner-options=--x"], "needs --runner"),
        (["--input", "{in}", "--output", "{in}"], "not empty and holds no preparation"),
        (["--input", "{in}", "--output", "{in}/000.png"], "cannot be written"),
    ],
)
def test_mistakes_are_one_line(tmp_path, folder, capsys, monkeypatch, options, match):
    from tvt_jax.cli import run
    from tvt_jax.prepare import prepare as main

    (tmp_path / "empty").mkdir()
    places = {"{in}": str(folder), "{empty}": str(tmp_path / "empty")}
    for key, value in places.items():
        options = [option.replace(key, value) for option in options]
    if "--output" not in options:
        options = ["--output", str(tmp_path / "out"), *options]
    monkeypatch.setattr(sys, "argv", ["prepare", "--quiet", *options])
    with pytest.raises(SystemExit) as stopped:
        run(main, prog="prepare")
    errors = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(errors) == 1 and match in errors[0], errors
