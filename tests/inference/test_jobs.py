"""Where outputs go."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tvt_jax.errors import UserError
from tvt_jax.images import write_image
from tvt_jax.images.formats import Encoding
from tvt_jax.inference.jobs import plan_jobs

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (9, 11, 3), np.uint8)


def test_one_file_goes_to_a_file_or_into_a_folder(tmp_path):
    write_image(tmp_path / "in.jpg", PIXELS)
    source = tmp_path / "in.jpg"
    assert plan_jobs([source], tmp_path / "out.webp")[0].target == tmp_path / "out.webp"
    assert plan_jobs([source], tmp_path / "out.webp")[0].format == "webp"
    assert plan_jobs([source], tmp_path / "new")[0].target == tmp_path / "new" / "in.jpg"
    (tmp_path / "dir.d").mkdir()
    assert plan_jobs([source], tmp_path / "dir.d")[0].target == tmp_path / "dir.d" / "in.jpg"


def test_folders_are_mirrored_to_the_bottom(tmp_path):
    for name in ("a.jpg", "sub/b.PNG", "sub/deep/c.tiff", "same.jpg", "same.bmp"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("x")
    (tmp_path / "in" / ".hidden.png").write_bytes(b"")
    targets = {
        str(job.target.relative_to(tmp_path / "out"))
        for job in plan_jobs([tmp_path / "in"], tmp_path / "out")
    }
    assert targets == {"a.jpg", "sub/b.PNG", "sub/deep/c.tiff", "same.jpg", "same.bmp"}


def test_mistakes_are_named(tmp_path):
    write_image(tmp_path / "in" / "a.png", PIXELS)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    for inputs, output, match in (
        ([tmp_path / "none"], "out", "does not exist"),
        ([tmp_path / "empty"], "out", "has no images"),
        ([tmp_path / "a.txt"], "out.png", "is of no image format"),
        ([tmp_path / "in" / "a.png"], "out.gif", "write one of"),
        ([tmp_path / "in" / "a.png"], "in/a.png", "would replace an input"),
        ([tmp_path / "in"], "in", "would replace an input"),
        ([tmp_path / "in"], "a.txt", "several images need a folder"),
    ):
        with pytest.raises(UserError, match=match):
            plan_jobs(inputs, tmp_path / output)


def targets(inputs, output, **options):
    jobs = plan_jobs(inputs, Path(output), **options)
    return {str(j.source.name): str(j.target.relative_to(output)) for j in jobs}


def test_targets_are_unique(tmp_path):
    for name in ("A/a.png", "B/a.png", "B/b.jpg", "C/sub/a.png", "D/B/a.png", "E/x.png", "E/X.png"):
        write_image(tmp_path / name, PIXELS)
    out = tmp_path / "out"
    jobs = plan_jobs([tmp_path / n for n in ("A", "B", "C/sub", "D/B", "E")], out)
    names = [job.target.relative_to(out).as_posix() for job in jobs]
    assert len(jobs) == 7 and len({name.casefold() for name in names}) == 7
    assert names[:4] == ["A/a.png", "B/a.png", "B/b.jpg", "sub/a.png"]
    assert names[4] == "B/a-2.png"
    # A file that is named twice is done once.
    assert len(plan_jobs([tmp_path / "A", tmp_path / "A" / "a.png"], out)) == 1


def test_a_file_keeps_its_output_whatever_comes_to_stand_beside_it(tmp_path):
    """Else --skip-existing would do it again, or take another file's output for its own."""
    for encoding in (Encoding(), Encoding("png")):
        before = {}
        for name in ("a.jpg", "a.tif", "a.bmp", "a.png", "a.gif"):
            Image.fromarray(PIXELS).save(tmp_path / name)
            now = targets([tmp_path], tmp_path / "out", encoding=encoding)
            assert before.items() <= now.items()
            before = now
    assert before["a.jpg"] == "a.jpg.png" and before["a.png"] == "a.png"


def test_formats_are_chosen_and_must_fit(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.gif")
    write_image(tmp_path / "b.jpeg", PIXELS)
    out = tmp_path / "out"
    assert targets([tmp_path], out) == {"a.gif": "a.gif.png", "b.jpeg": "b.jpeg"}
    webp = Encoding("webp", quality=80)
    assert targets([tmp_path], out, encoding=webp) == {n: n + ".webp" for n in ("a.gif", "b.jpeg")}
    with pytest.raises(UserError, match="out.png is not of the `format` webp"):
        plan_jobs([tmp_path / "b.jpeg"], tmp_path / "out.png", webp)
    with pytest.raises(UserError, match="`quality` has no effect on PNG"):
        plan_jobs([tmp_path / "a.gif"], out, Encoding(quality=80))
    plan_jobs([tmp_path], out, Encoding(quality=80))  # the JPEG has one


def test_files_that_are_not_read_are_named(tmp_path):
    write_image(tmp_path / "a.png", PIXELS)
    for name in ("a.cr2", "b.cr2", "notes.txt"):
        (tmp_path / name).touch()
    os.symlink(tmp_path / "nowhere.png", tmp_path / "b.png")
    lines = []
    assert targets([tmp_path], tmp_path / "out", report=lines.append) == {"a.png": "a.png"}
    assert lines[0].endswith("of formats that are not read here: .cr2 (2), .txt (1)")
    assert lines[1].endswith("b.png is no file, or a link to none")


def test_outputs_inside_of_the_inputs_are_no_inputs(tmp_path):
    write_image(tmp_path / "a.png", PIXELS)
    write_image(tmp_path / "large" / "a.png", PIXELS)
    [job] = plan_jobs([tmp_path], tmp_path / "large")
    assert job.target == tmp_path / "large" / "a.png" and job.done()
    job.target.write_bytes(b"")
    assert not job.done()


def test_links_to_folders_and_hidden_files_are_not_searched(tmp_path):
    write_image(tmp_path / "in" / "a.png", PIXELS)
    write_image(tmp_path / "in" / ".hidden" / "b.png", PIXELS)
    os.symlink(tmp_path / "in", tmp_path / "in" / "again", target_is_directory=True)
    lines = []
    assert targets([tmp_path / "in"], tmp_path / "out", report=lines.append) == {"a.png": "a.png"}
    assert lines == [f"left out: {tmp_path / 'in' / 'again'} is a link to a folder"]


def test_ten_thousand_files_are_planned_in_a_moment(tmp_path):
    """Counting each name among all others took minutes."""
    (tmp_path / "in").mkdir()
    for number in range(10_000):
        (tmp_path / "in" / f"{number}.png").touch()
    start = time.process_time()
    assert len(plan_jobs([tmp_path / "in"], tmp_path / "out")) == 10_000
    assert time.process_time() - start < 5  # a second on a quiet machine
