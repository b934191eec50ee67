"""The exported StableHLO folder against `Upscaler`, and what its files hold."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters.mlir import make_ir_context
from PIL import Image

from tests.support.full_disk import files_of_at_most
from tests.support.parity import max_difference, noise
from tvt_jax.bundled import SMALL_MODEL
from tvt_jax.errors import UserError
from tvt_jax.export import exporting
from tvt_jax.export.exporting import export_model
from tvt_jax.inference.exported import ExportedUpscaler
from tvt_jax.inference.upscaler import Upscaler
from tvt_jax.models.attention import dot_product_attention

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def folder(local_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "stablehlo"
    export_model(local_model, folder, "stablehlo", "float32", "adain")
    return folder


@pytest.fixture(scope="module")
def exported(folder):
    return ExportedUpscaler(folder)


@pytest.fixture(scope="module")
def upscaler(local_model):
    return Upscaler.from_folder(local_model, "float32")


def images(count, height, width):
    """Smooth colours with noise."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([127 + 90 * np.sin(x / (5 + c) + y / (7 - c)) for c in range(3)], -1)
    noisy = waves + np.random.default_rng(0).normal(0, 8, (count, height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def to_levels(restored):
    return np.round(np.clip(restored, 0.0, 1.0) * 255.0).astype(int)


@pytest.mark.parametrize(
    ("count", "height", "width"),
    [(2, 9, 4), *(pytest.param(1, *size, marks=pytest.mark.slow) for size in ((1, 1), (5, 13)))],
    ids=str,
)
def test_upscaling_any_size_equals_upscaler(exported, upscaler, count, height, width):
    batch = images(count, height, width)
    got = exported.run("upscale", batch)
    assert got.shape == (count, 4 * height, 4 * width, 3) and got.dtype == np.uint8
    for image, restored in zip(batch, got, strict=True):
        size = (4 * width, 4 * height)
        enlarged = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        want = to_levels(upscaler.restore(enlarged))
        assert np.abs(restored - want).max() <= 1


@pytest.mark.slow
def test_restoring_a_single_row_equals_upscaler(exported, upscaler):
    """One row has nothing to mirror."""
    [image] = images(1, 1, 11)
    want = to_levels(upscaler.restore(image))
    assert np.abs(exported.restore(image) - want).max() <= 1


def test_a_stored_embedding_takes_no_prompt(exported):
    assert not exported.takes_prompts
    with pytest.raises(UserError, match="neither a prompt nor tags"):
        exported(images(1, 4, 4)[0], prompt="a cat")


@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (255, 255), (513, 513), (300, 77)])
def test_attention_of_symbolic_length_equals_the_formula(num_queries, num_keys):
    query, key, value = (
        noise(2, n, 2, 16, seed=s) for s, n in enumerate((num_queries, num_keys, num_keys))
    )
    shapes = ["b, n, 2, 16"] + ["b, n, 2, 16" if num_queries == num_keys else "b, 77, 2, 16"] * 2
    scope = jax.export.SymbolicScope()
    specs = [jax.ShapeDtypeStruct(jax.export.symbolic_shape(s, scope=scope), "f4") for s in shapes]
    program = jax.export.export(jax.jit(dot_product_attention))(*specs)
    want = dot_product_attention(query, key, value, backend="plain")
    assert max_difference(jax.jit(program.call)(query, key, value), want) < 1e-5


def test_the_signature_says_what_the_files_want(folder):
    signature = json.loads((folder / "signature.json").read_text())
    for name in ("upscale", "restore"):
        program = signature["programs"][name]
        assert program["inputs"] == {"images": ["uint8", ["b", "h", "w", 3]]}
        assert program["arguments"] == ["platform", *program["weights"], "images"]
    assert signature["platforms"] == ["cpu", "cuda", "tpu"]
    assert signature["exported"] < signature["jax_export_read_until"]


def test_portable_files_are_for_any_machine(folder):
    signature = json.loads((folder / "signature.json").read_text())
    for name in ("upscale", "restore"):
        content = (folder / f"{name}.mlirbc").read_bytes()
        assert str(ROOT).encode() not in content and b"site-packages" not in content
        with make_ir_context() as context:
            text = str(stablehlo.deserialize_portable_artifact(context, content))
        # Each size is computed once: there are 161 calls, and 738 where equal ones are not merged.
        assert text.count("call @") < 300
        assert set(re.findall(r"custom_call @(\w+)", text)) <= {"shape_assertion"}
        [arguments] = re.findall(r"func\.func public @main\((.*?)\) ->", text)
        count = len(re.findall(r"%arg\d+:", arguments))
        assert count == len(signature["programs"][name]["arguments"])


def test_it_runs_without_flax(folder, tmp_path, exported):
    [image] = images(1, 5, 13)
    np.save(tmp_path / "image.npy", image)
    code = """if True:
        import sys
        sys.modules["flax"] = None
        import numpy as np
        from tvt_jax import ExportedUpscaler
        folder, image, large = sys.argv[1:]
        np.save(large, ExportedUpscaler(folder).run("upscale", np.load(image)[None]))
    """
    files = [str(path) for path in (folder, tmp_path / "image.npy", tmp_path / "large.npy")]
    command = [sys.executable, "-c", code, *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    large = np.load(tmp_path / "large.npy")
    assert np.abs(large.astype(int) - exported.run("upscale", image[None])).max() <= 1


def test_what_differs_from_upscaler_is_not_written(local_model, tmp_path, monkeypatch):
    class Other:
        def __init__(self, folder):
            assert (folder / "weights.safetensors").is_file()
            assert not (tmp_path / "out").exists()

        def run(self, name, images):
            return np.zeros((1, 4 * images.shape[1], 4 * images.shape[2], 3), np.uint8)

    monkeypatch.setattr(exporting, "ExportedUpscaler", Other)
    monkeypatch.setattr(exporting, "write_stablehlo", lambda folder, *_: (
        (folder / "weights.safetensors").touch()
    ))  # fmt: skip
    with pytest.raises(UserError, match="levels off"):
        export_model(local_model, tmp_path / "out", "stablehlo", "float32", "none")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_nothing_is_left(local_model, tmp_path):
    with files_of_at_most(2**16), pytest.raises(UserError, match="cannot write .*out"):
        export_model(local_model, tmp_path / "out", "stablehlo", "float32", "none")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_killed_in_the_middle_nothing_has_the_final_name(tmp_path):
    command = [sys.executable, "-m", "tvt_jax.export", "--format", "stablehlo"]
    process = subprocess.Popen([*command, "--output", str(tmp_path / "out")], cwd=ROOT)
    while not list(tmp_path.glob(".out.partial-*/*.jax_export")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(model=Path("nowhere")), "`model` nowhere is not a model folder"),
        (dict(format="onnx"), "`format` onnx is not one of saved_model, stablehlo"),
        (dict(dtype="float16"), "`dtype` float16 is not one of float32, bfloat16"),
        (dict(color_fix="other"), "`color_fix` other is not one of"),
    ],
)
def test_mistakes_are_told(tmp_path, changes, match):
    arguments = dict(
        model=SMALL_MODEL, output=tmp_path / "out", format="stablehlo", dtype="float32",
        color_fix="adain",
    )  # fmt: skip
    with pytest.raises(UserError, match=match):
        export_model(**arguments | changes)


def test_a_damaged_folder_is_told(folder, tmp_path):
    with pytest.raises(UserError, match="is not an exported folder"):
        ExportedUpscaler(tmp_path)
    for name in ("signature.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "restore.jax_export").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read by jax .* export it again"):
        ExportedUpscaler(tmp_path).restore(images(1, 4, 4)[0])


@pytest.mark.slow
def test_prompts_of_a_model_with_a_text_encoder(small_model, tmp_path):
    export_model(small_model, tmp_path / "out", "stablehlo", "float32", "wavelet")
    exported = ExportedUpscaler(tmp_path / "out")
    upscaler = Upscaler.from_folder(small_model, "float32")
    [image] = images(1, 40, 24)
    results = []
    for prompt in (None, "a sign"):
        want = to_levels(upscaler.restore(image, prompt=prompt, color_fix="wavelet"))
        results.append(exported.restore(image, prompt))
        assert np.abs(results[-1] - want).max() <= 1
    assert np.any(results[0] != results[1])
