"""A folder through the command, whatever happens to one of its images."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import odd_images
from tvt_jax import cli
from tvt_jax.errors import UserError
from tvt_jax.files import claimed
from tvt_jax.images import read_image, write_image
from tvt_jax.infer import infer
from tvt_jax.inference.upscaler import Upscaled, Upscaler


class Enlarger:
    """Stands for the networks, and fails as machines do."""

    takes_prompts, has_tagger = True, False

    def upscale(self, image, options, tags, **callbacks):
        """Repeats pixels; the first one's red says which error is raised."""
        errors = {1: MemoryError(), 2: OSError(28, "No space left on device"), 3: UserError("no")}
        if image[0, 0, 0] in errors:
            raise errors[image[0, 0, 0]]
        return Upscaled(image.repeat(4, 0).repeat(4, 1), ())


@pytest.fixture
def enlarger(monkeypatch):
    monkeypatch.setattr(Upscaler, "from_folder", lambda *_, **__: Enlarger())


def test_one_bad_file_of_any_kind_never_ends_a_batch(enlarger, tmp_path, capsys):
    for red in range(5):
        image = np.full((4, 4, 3), red, np.uint8)
        write_image(tmp_path / "in" / f"{red}.png", image)
    (tmp_path / "in" / "5.jpg").write_bytes(b"nothing")
    with pytest.raises(UserError, match="4 of 6 images failed, the others are done"):
        infer([tmp_path / "in"], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.png", "4.png"]
    assert (read_image(tmp_path / "out" / "4.png") == 4).all()
    errors = capsys.readouterr().err
    for text in ("1.png failed: MemoryError", "2.png failed: OSError", "3.png: no", "5.jpg is not"):
        assert text in errors
    (tmp_path / "out" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match="4 of 5 images failed"):
        infer([tmp_path / "in"], tmp_path / "out", skip_existing=True)
    assert "skipped 1 that exist already" in capsys.readouterr().out
    assert read_image(tmp_path / "out" / "0.png").shape == (16, 16, 3)


def run(arguments, monkeypatch):
    """The command with the stand-in; its exit status."""
    monkeypatch.setattr("sys.argv", ["infer", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.run(infer, "infer")
        sys.exit(0)
    return ended.value.code


def test_five_hundred_hostile_files_are_each_accounted_for(enlarger, tmp_path, capsys, monkeypatch):
    """Odd kinds, damaged in every way, bombs: what is readable is done, the others are named."""
    files = odd_images(501)
    del files["megapixels_100.png"]  # sound, and slow
    for name, data in files.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    status = run(["--input", tmp_path / "in", "--output", tmp_path / "out"], monkeypatch)
    assert status == 2
    out, errors = capsys.readouterr()
    done = {line.split(" -> ")[0].rsplit("/")[-1] for line in out.splitlines() if " -> " in line}
    failed = {
        n for n in files for e in errors.splitlines() if f"/{n} is not" in e or f"/{n}: " in e
    }
    assert done.isdisjoint(failed) and done | failed == set(files)
    damage = ("truncated", "flipped", "zeroed", "shuffled")
    assert {n for n in failed if not n.startswith(damage)} == {
        "empty.png", "text.jpg", "program.jpg", "archive.png", "lab.tif", "megapixels_200.png",
        "lies_about_its_size.bmp",
    }  # fmt: skip
    assert len(list((tmp_path / "out").iterdir())) == len(done)
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as opened:
            opened.load()


def test_notes_are_said_once_and_options_reach_the_file(enlarger, tmp_path, capsys, monkeypatch):
    for name in ("a.png", "b.png"):
        rgba = Image.new("RGBA", (4, 4), (9, 8, 7, 200))
        (tmp_path / "in").mkdir(exist_ok=True)
        rgba.save(tmp_path / "in" / name, dpi=(300, 300))
    arguments = ["--input", tmp_path / "in", "--output", tmp_path / "out"]
    arguments += ["--format", "jpeg", "--quality", "50", "--strip-metadata", "--scale", "4"]
    assert run(arguments, monkeypatch) == 0
    out = capsys.readouterr().out
    assert out.count("transparency becomes white in JPEG (said once)") == 1
    with Image.open(tmp_path / "out" / "b.png.jpg") as opened:
        assert opened.format == "JPEG" and opened.info.get("dpi") != (300, 300)
        assert opened.quantization[0][0] > 10  # of quality 50
    arguments[arguments.index("jpeg")] = "png"
    assert run(arguments, monkeypatch) == 2
    assert "--quality has no effect on PNG" in capsys.readouterr().err


COMMAND = """
from tests.inference.test_infer import Enlarger
from tvt_jax.cli import run
from tvt_jax.infer import infer
from tvt_jax.inference.upscaler import Upscaler
Upscaler.from_folder = lambda *_, **__: Enlarger()
run(infer, "infer")
"""


def test_a_log_has_every_line_and_nothing_else(tmp_path):
    """`infer > log.txt`: notes and results; the bar and errors are for the screen."""
    for name, color in (("a.png", "red"), ("b.png", "blue"), ("c.png", "green")):
        write_image(tmp_path / "in" / name, np.asarray(Image.new("RGB", (4, 4), color)))
    Image.new("RGBA", (4, 4), (9, 8, 7, 200)).save(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "d.png").write_bytes(b"nothing")
    command = [sys.executable, "-c", COMMAND, "--input", "in", "--output", "out"]
    command += ["--format", "jpeg", "--skip-existing"]
    write_image(tmp_path / "out" / "c.png.jpg", np.zeros((4, 4, 3), np.uint8))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with open(tmp_path / "log.txt", "w") as log:
        done = subprocess.run(
            command, stdout=log, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
        )
    assert done.returncode == 2
    assert (tmp_path / "log.txt").read_text().splitlines() == [
        "skipped 1 that exist already",
        "no --model: the small bundled model restores; it is made for CPUs.",
        "in/a.png -> out/a.png.jpg (16x16)",
        "in/b.png -> out/b.png.jpg (16x16)",
        "note: in/b.png: transparency becomes white in JPEG (said once)",
    ]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "in/d.png is not a readable image" in errors[0]
    assert "1 of 3 images failed, the others are done" in errors[1]


def test_too_large_for_the_format_is_said_before_the_work(tmp_path, monkeypatch, capsys):
    class Never:
        takes_prompts, has_tagger = True, False

        def upscale(self, *_, **__):
            raise AssertionError("it worked")

    monkeypatch.setattr(Upscaler, "from_folder", lambda *_, **__: Never())
    write_image(tmp_path / "a.png", np.zeros((1, 5000, 3), np.uint8))
    arguments = ["--input", tmp_path / "a.png", "--output", tmp_path / "a.webp"]
    assert run(arguments, monkeypatch) == 2
    assert "20000x4 px is too large for WEBP, which ends at 16383 px" in capsys.readouterr().err


def test_frames_go_only_into_formats_that_have_them(enlarger, tmp_path, monkeypatch, capsys):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    arguments = ["--input", tmp_path / "a.gif", "--output", tmp_path / "out.jpg", "--all-frames"]
    assert run(arguments, monkeypatch) == 2
    assert "JPEG holds one frame; choose another --format" in capsys.readouterr().err
    assert run(arguments[:-1], monkeypatch) == 0
    assert "the first of its 2 frames is taken; --all-frames" in capsys.readouterr().out
    arguments[3] = tmp_path / "out.webp"
    assert run(arguments, monkeypatch) == 0
    with Image.open(tmp_path / "out.webp") as opened:
        assert opened.n_frames == 2 and opened.size == (16, 16)


def test_two_processes_share_an_output_folder(enlarger, tmp_path, capsys):
    """What one has claimed, the other leaves; a claim goes with its process."""
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, np.full((4, 4, 3), 9, np.uint8))
    with claimed(tmp_path / "out" / "a.png") as ours:
        assert ours
        infer([tmp_path / "in"], tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.png"]
    assert "a.png is another process's work" in capsys.readouterr().out
    infer([tmp_path / "in"], tmp_path / "out", skip_existing=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_what_a_format_cannot_hold_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot write .*a.webp as WEBP"):
        write_image(tmp_path / "a.webp", np.zeros((1, 16384, 3), np.uint8))
    assert not list(tmp_path.iterdir())
