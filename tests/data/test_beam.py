"""Apache Beam writes what `prepare` writes by itself.

Beam needs an older protobuf than the other packages, so it lives in an environment of its own:
`make test-beam`. This file is run there without the project's conftest.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.image_files import write_images

pytest.importorskip("apache_beam", reason="Apache Beam is not installed; run `make test-beam`")
ROOT = Path(__file__).parent.parent.parent
SEVERAL_PROCESSES = "--direct_running_mode=multi_processing --direct_num_workers=2"


def prepare(folder, output, *options):
    command = [
        sys.executable, "-m", "tvt_jax.prepare", "--input", str(folder), "--output", str(output),
        "--shard-size", "3", "--crop", "32", "--quiet", *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def files(output):
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp("in") / "photos", 10, 70, 90)
    (folder / "copy.png").write_bytes((folder / "003.png").read_bytes())
    (folder / "broken.jpg").write_bytes(b"\xff\xd8")
    return folder


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("plain") / "out"
    done = prepare(folder, output, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    return files(output)


@pytest.mark.parametrize("options", ["", SEVERAL_PROCESSES], ids=["local", "processes"])
def test_beam_writes_the_same_bytes(folder, plain, tmp_path, options):
    output = tmp_path / "out"
    done = prepare(folder, output, "--runner", "DirectRunner", f"--runner-options={options}")
    assert done.returncode == 0, done.stderr
    assert files(output) == plain


def test_beam_finishes_what_a_plain_run_began(folder, plain, tmp_path):
    from tvt_jax.data.preparation.prepare import Settings, prepare_shards
    from tvt_jax.data.preparation.shard_writer import Filters

    def stop_after_two(function, tasks, what):
        for task in tasks[:2]:
            function(task)
        if what == "writing shards":
            raise KeyboardInterrupt

    output = tmp_path / "out"
    settings = Settings((str(folder),), filters=Filters(crop=32), shard_size=3)
    with pytest.raises(KeyboardInterrupt):
        prepare_shards(str(output), settings, stop_after_two)
    assert (output / "plan.json").exists()
    done = prepare(folder, output, "--runner", "DirectRunner")
    assert done.returncode == 0, done.stderr
    assert files(output) == plain


def test_mistakes_are_one_line(folder, tmp_path):
    done = prepare(folder, tmp_path / "out", "--runner", "NoSuchRunner")
    assert done.returncode == 2
    assert "Unexpected pipeline runner: NoSuchRunner" in done.stderr.strip().splitlines()[-1]
