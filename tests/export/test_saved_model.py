"""The SavedModel, run by a process in which neither jax nor this package can be imported.

Needs the extra [export]; the tests are skipped without TensorFlow. OLD_TENSORFLOW may name a Python
that has TensorFlow 2.19, which today's servers are built on.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.export.test_stablehlo import images, to_levels
from tvt_jax.bundled import SMALL_MODEL
from tvt_jax.errors import UserError
from tvt_jax.export.exporting import export_model
from tvt_jax.inference.upscaler import Upscaler

ROOT = Path(__file__).parent.parent.parent
needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="the extra [export] is not installed"
)
# Sizes for "restore": batch, height, width.
SIZES = [(1, 1, 1), (1, 20, 52), (2, 36, 16)]
CLIENT = """
import sys
sys.modules["jax"] = sys.modules["tvt_jax"] = None
import numpy as np
import tensorflow as tf

folder, work = sys.argv[1:]
model = tf.saved_model.load(folder)
signatures = model.signatures
batches = np.load(work + "/batches.npz")
results = {}
for name, batch in batches.items():
    results[name] = signatures["restore"](images=tf.constant(batch))["images"].numpy()
small = tf.constant(batches["0"])
results["large"] = signatures["serving_default"](images=small)["images"].numpy()
compiled = tf.function(lambda x: signatures["restore"](images=x)["images"], jit_compile=True)
results["compiled"] = compiled(tf.constant(batches["1"])).numpy()
png = tf.io.encode_png(small[0])
large = signatures["encoded"](image_bytes=png)["image_bytes"]
results["decoded"] = tf.io.decode_png(large).numpy()
np.savez(work + "/results.npz", **results)

errors = []
for shape, dtype in (((1, 0, 4, 3), "u1"), ((1, 4, 4, 4), "u1"), ((1, 4, 4, 3), "f4")):
    try:
        signatures["restore"](images=tf.constant(np.zeros(shape, dtype)))
        errors.append("none")
    except Exception as error:
        errors.append(str(error))
open(work + "/errors.txt", "w").write("\\n----\\n".join(errors))
open(work + "/metadata.json", "wb").write(signatures["metadata"]()["metadata"].numpy())
"""


def run_client(folder, work, python=sys.executable):
    (work / "client.py").write_text(CLIENT)
    command = [python, "-I", str(work / "client.py"), str(folder), str(work)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Folder with the SavedModel, and what its client makes of a few batches."""
    work = tmp_path_factory.mktemp("saved_model")
    export_model(SMALL_MODEL, work / "model", "saved_model", "float32", "adain")
    np.savez(work / "batches.npz", **{str(i): images(*size) for i, size in enumerate(SIZES)})
    done = run_client(work / "model", work)
    assert done.returncode == 0, done.stderr
    return work


@needs_tensorflow
def test_it_equals_upscaler_without_jax(work):
    upscaler = Upscaler.from_folder(SMALL_MODEL, "float32")
    batches, results = np.load(work / "batches.npz"), np.load(work / "results.npz")
    for name, batch in batches.items():
        for image, restored in zip(batch, results[name], strict=True):
            assert np.abs(restored - to_levels(upscaler.restore(image))).max() <= 1
    pixel = batches["0"][0]
    want = to_levels(upscaler.restore(np.repeat(np.repeat(pixel, 4, 0), 4, 1)))
    assert np.abs(results["large"][0] - want).max() <= 1
    assert np.abs(results["compiled"].astype(int) - results["1"]).max() <= 1
    np.testing.assert_array_equal(results["decoded"], results["large"][0])


@needs_tensorflow
def test_wrong_images_are_told(work):
    empty, channels, floats = (work / "errors.txt").read_text().split("\n----\n")
    assert "images must be uint8 [batch, height, width, 3] with no side of 0" in empty
    assert "none" not in (channels, floats)


@needs_tensorflow
def test_the_files_say_what_they_are_and_hold_no_paths(work):
    metadata = json.loads((work / "metadata.json").read_text())
    assert metadata["dtype"] == "float32" and metadata["versions"]["stablehlo"] == "1.0.0"
    for path in (work / "model").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(ROOT).encode() not in content and b"site-packages" not in content


def test_without_tensorflow_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"needs TensorFlow: pip install 'tvt-jax\[export\]'"):
        export_model(SMALL_MODEL, tmp_path / "out", "saved_model", "float32", "none")
    assert not list(tmp_path.iterdir())


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.skipif("OLD_TENSORFLOW" not in os.environ, reason="OLD_TENSORFLOW names no Python")
def test_an_older_tensorflow_runs_it(work, tmp_path):
    shutil.copyfile(work / "batches.npz", tmp_path / "batches.npz")
    done = run_client(work / "model", tmp_path, os.environ["OLD_TENSORFLOW"])
    assert done.returncode == 0, done.stderr
    new, old = np.load(work / "results.npz"), np.load(tmp_path / "results.npz")
    for name in new:
        assert np.abs(new[name].astype(int) - old[name]).max() <= 1
