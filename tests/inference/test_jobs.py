"""Where outputs go."""

import numpy as np
import pytest
from PIL import Image

from tvt_jax.errors import UserError
from tvt_jax.images import write_image
from tvt_jax.inference.jobs import plan_jobs

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (9, 11, 3), np.uint8)


def test_one_file_goes_to_a_file_or_into_a_folder(tmp_path):
    write_image(tmp_path / "in.jpg", PIXELS)
    source = tmp_path / "in.jpg"
    assert plan_jobs([source], tmp_path / "out.webp")[0].target == tmp_path / "out.webp"
    assert plan_jobs([source], tmp_path / "new")[0].target == tmp_path / "new" / "in.png"
    (tmp_path / "dir.d").mkdir()
    assert plan_jobs([source], tmp_path / "dir.d")[0].target == tmp_path / "dir.d" / "in.png"


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
    assert targets == {"a.png", "sub/b.png", "sub/deep/c.png", "same.jpg.png", "same.bmp.png"}


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
