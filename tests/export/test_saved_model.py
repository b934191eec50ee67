"""The SavedModel, run by a process in which neither jax nor this package can be imported.

Needs the extra [export]; the tests are skipped without TensorFlow. OLD_TENSORFLOW may name a Python
that has TensorFlow 2.19, which today's servers are built on.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters.mlir import make_ir_context
from PIL import Image

from tests.export.test_stablehlo import images, to_levels
from tests.support.full_disk import files_of_at_most
from tvt_jax.bundled import SMALL_MODEL
from tvt_jax.errors import UserError
from tvt_jax.export.exporting import export_model
from tvt_jax.images import decode_image, encode_png
from tvt_jax.inference.upscaler import Upscaler
from tvt_jax.text import build_prompt, load_tokenizer, tokenize

ROOT = Path(__file__).parent.parent.parent
needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="the extra [export] is not installed"
)
# Batch, height, width.
SIZES = [(1, 1, 1), (1, 20, 52), (2, 36, 16), (1, 7, 64), (3, 33, 17)]
# Signature, inputs, whether XLA compiles all of it; by the name of the result.
CALLS = {
    **{f"restore {size}": ("restore", {"images": images(*size)}, False) for size in SIZES},
    "compiled": ("restore", {"images": images(*SIZES[1])}, True),
    "enlarged": ("serving_default", {"images": images(1, 5, 9)}, False),
    "PNG": ("encoded", {"image_bytes": np.array(encode_png(images(1, 5, 9)[0]))}, False),
    "no height": ("restore", {"images": np.zeros((1, 0, 4, 3), np.uint8)}, False),
    "four channels": ("restore", {"images": np.zeros((1, 4, 4, 4), np.uint8)}, False),
    "one image": ("restore", {"images": np.zeros((4, 4, 3), np.uint8)}, False),
    "floats": ("restore", {"images": np.zeros((1, 4, 4, 3), np.float32)}, False),
    "no image": ("encoded", {"image_bytes": np.array(b"text")}, False),
    "metadata": ("metadata", {}, False),
}
CLIENT = """
import sys
sys.modules["jax"] = sys.modules["tvt_jax"] = None
import json
import numpy as np
import tensorflow as tf

folder, work = sys.argv[1:]
model = tf.saved_model.load(folder)
inputs, results = np.load(work + "/inputs.npz"), {}
for call, (signature, names, jit) in json.load(open(work + "/calls.json")).items():
    function = model.signatures[signature]
    if jit:
        function = tf.function(function, jit_compile=True)
    try:
        tensors = {name: tf.constant(inputs[f"{call} {name}"]) for name in names}
        [result] = function(**tensors).values()
        results[call] = result.numpy()
    except Exception as error:
        results[call] = str(error)
np.savez(work + "/results.npz", **results)
"""


def run_client(folder, work, calls, python=sys.executable) -> dict[str, np.ndarray]:
    """The calls' results; those that failed are the message."""
    work.mkdir()
    (work / "client.py").write_text(CLIENT)
    arrays = {
        f"{n} {k}": array for n, (_, inputs, _) in calls.items() for k, array in inputs.items()
    }
    np.savez(work / "inputs.npz", **arrays)
    described = {n: (signature, list(inputs), jit) for n, (signature, inputs, jit) in calls.items()}
    (work / "calls.json").write_text(json.dumps(described))
    command = [python, "-I", str(work / "client.py"), str(folder), str(work)]
    environment = {**os.environ, "XLA_FLAGS": ""}  # of jax, and unknown to older ones
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(np.load(work / "results.npz"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "saved_model"
    export_model(SMALL_MODEL, folder, "saved_model", "float32", "adain")
    return folder


@pytest.fixture(scope="module")
def results(folder, tmp_path_factory):
    return run_client(folder, tmp_path_factory.mktemp("client") / "work", CALLS)


@needs_tensorflow
def test_it_equals_upscaler_without_jax(results):
    upscaler = Upscaler.from_folder(SMALL_MODEL, "float32")
    for size in SIZES:
        for image, got in zip(images(*size), results[f"restore {size}"], strict=True):
            assert np.abs(got - to_levels(upscaler.restore(image))).max() <= 1
    assert np.abs(results["compiled"].astype(int) - results[f"restore {SIZES[1]}"]).max() <= 1
    enlarged = Image.fromarray(images(1, 5, 9)[0]).resize((36, 20), Image.Resampling.BICUBIC)
    want = to_levels(upscaler.restore(np.asarray(enlarged)))
    assert np.abs(results["enlarged"][0] - want).max() <= 1
    decoded = decode_image(results["PNG"].item()).pixels
    np.testing.assert_array_equal(decoded, results["enlarged"][0])


@needs_tensorflow
@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("no height", "images must have no side of 0"),
        (
            "four channels",
            r"images \[1,4,4,4\] is not compatible with expected shape \[\?,\?,\?,3\]",
        ),
        ("one image", r"images \[4,4,3\] is not compatible with expected shape \[\?,\?,\?,3\]"),
        ("floats", "expected to be a uint8 tensor but is a float tensor"),
        ("no image", "Unknown image file format"),
    ],
)
def test_wrong_images_are_told(results, call, message):
    assert re.search(message, results[call].item())


@needs_tensorflow
def test_the_files_say_what_they_are_and_hold_no_paths(folder, results):
    metadata = json.loads(results["metadata"].item())
    assert metadata["dtype"] == "float32" and metadata["versions"]["stablehlo"] == "1.0.0"
    assert set(metadata["files_sha256"]) == {
        str(path.relative_to(SMALL_MODEL)) for path in SMALL_MODEL.rglob("*.safetensors")
    }
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(ROOT).encode() not in content and b"site-packages" not in content


@needs_tensorflow
def test_any_runtime_has_what_the_programs_call(folder):
    from tensorflow.core.protobuf import saved_model_pb2

    content = (folder / "saved_model.pb").read_bytes()
    functions = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].graph_def.library
    modules = {
        node.attr["module"].s
        for function in functions.function
        for node in function.node_def
        if node.op == "XlaCallModule"
    }
    assert len(modules) == 2  # "upscale" and "restore"
    for module in modules:
        with make_ir_context() as context:
            text = str(stablehlo.deserialize_portable_artifact(context, module))
        assert set(re.findall(r"custom_call @(\w+)", text)) == {"shape_assertion"}


def test_without_tensorflow_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"needs TensorFlow: pip install 'tvt-jax\[export\]'"):
        export_model(SMALL_MODEL, tmp_path / "out", "saved_model", "float32", "none")
    assert not list(tmp_path.iterdir())


@needs_tensorflow
def test_a_full_disk_is_one_line_and_nothing_is_left(tmp_path):
    with files_of_at_most(2**16), pytest.raises(UserError, match="cannot write .*out"):
        export_model(SMALL_MODEL, tmp_path / "out", "saved_model", "float32", "none")
    assert not list(tmp_path.iterdir())


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.skipif("OLD_TENSORFLOW" not in os.environ, reason="OLD_TENSORFLOW names no Python")
def test_an_older_tensorflow_runs_it(folder, results, tmp_path):
    old = run_client(folder, tmp_path / "work", CALLS, os.environ["OLD_TENSORFLOW"])
    for call, new in results.items():
        if new.dtype == np.uint8:
            assert np.abs(new.astype(int) - old[call]).max() <= 1


@needs_tensorflow
@pytest.mark.slow
def test_tokens_guide_a_model_with_a_text_encoder(small_model, tmp_path):
    export_model(small_model, tmp_path / "out", "saved_model", "float32", "wavelet")
    tokenizer = load_tokenizer(small_model / "tokenizer")
    prompts = ["a sign", "a face, a tree"]
    tokens = np.concatenate([tokenize(tokenizer, build_prompt((), p), 77) for p in prompts])
    batch = images(2, 40, 24)
    calls = {
        "both": ("restore_with_tokens", {"images": batch, "tokens": tokens}, False),
        "too few": ("restore_with_tokens", {"images": batch, "tokens": tokens[:1]}, False),
        "stored": ("restore", {"images": batch}, False),
    }
    results = run_client(tmp_path / "out", tmp_path / "work", calls)
    upscaler = Upscaler.from_folder(small_model, "float32")
    for name, used in (("both", prompts), ("stored", [None, None])):
        for image, prompt, got in zip(batch, used, results[name], strict=True):
            want = upscaler.restore(image, prompt=prompt, color_fix="wavelet")
            assert np.abs(got - to_levels(want)).max() <= 1
    assert "there must be tokens for every image" in results["too few"].item()
