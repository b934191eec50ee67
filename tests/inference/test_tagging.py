"""From images to tags: resizing, batches, devices, files, and the prompt of the release."""

import json
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.support import ram_files
from tests.support.parity import max_difference
from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS
from tvt_jax.config import DataConfig
from tvt_jax.data.sources import open_sources
from tvt_jax.errors import UserError
from tvt_jax.images import read_image, write_image
from tvt_jax.infer import infer
from tvt_jax.inference import tag_files
from tvt_jax.inference.options import RestorationOptions
from tvt_jax.inference.tag_files import TagFile
from tvt_jax.inference.tagging import class_probabilities, load_tagger, resize
from tvt_jax.inference.upscaler import Upscaler
from tvt_jax.inference.whole_programs import WholePrograms
from tvt_jax.prepare import prepare

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ram_files.golden()
IMAGES = [ram_files.image(0), ram_files.image(1)]
SCALE_1 = RestorationOptions(scale=1)


# --------------------------------------------------------------------------------------------------
# Resizing
# --------------------------------------------------------------------------------------------------


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


SIZES = [(300, 500), (37, 1200), (384, 384), (1, 1), (2, 900), (97, 61)]


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_resize_equals_torch(size, antialias):
    image = random_image(*size)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    want = torch.nn.functional.interpolate(
        pixels, (384, 384), mode="bilinear", antialias=antialias, align_corners=False
    )
    got = resize(image, 384, antialias)
    # Pixels are placed in float32, to 1e-4 at 1200: the order of its operations shows.
    assert max_difference(got, want[0].permute(1, 2, 0).numpy()) < 3e-5
    assert got.shape == (384, 384, 3) and got.dtype == np.float32


@pytest.mark.parametrize("antialias", [False, True])
def test_resize_equals_jax(antialias):
    image = random_image(300, 500)
    want = jax.image.resize(
        jnp.asarray(image, jnp.float32) / 255, (96, 96, 3), "linear",
        antialias=antialias, precision="highest",
    )  # fmt: skip
    assert max_difference(resize(image, 96, antialias), want) < 2e-6


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(300, 500), (768, 1024)], ids=str)
def test_resize_and_colours_are_the_originals(size, antialias):
    """torchvision 0.15's ToTensor, Resize and Normalize."""
    key = f"prep/{size[0]}x{size[1]}/{'antialias' if antialias else 'no_antialias'}"
    got = resize(ram_files.image(2, *size), 384, antialias)
    got = (got - ram_files.MEAN) / ram_files.DEVIATION
    assert max_difference(got[::17, ::19], GOLDEN[f"{key}/slice"]) < 2e-5
    statistics = (got.mean(), got.std(), np.abs(got).max())
    assert max_difference(statistics, GOLDEN[f"{key}/stat"]) < 2e-5


# --------------------------------------------------------------------------------------------------
# The tagger
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taggers(tagger_models):
    return {kind: load_tagger(folder) for kind, folder in tagger_models.items()}


@pytest.mark.parametrize("kind", ["ram", "dape"])
def test_tags_are_the_originals(taggers, kind):
    tagger = taggers[kind]
    want = [[f"tag {i}" for i in GOLDEN[f"{kind}/tag_index_{n}"]] for n in (0, 1)]
    assert tagger(IMAGES) == want and all(want)
    for row, logits in zip(tagger.probabilities(IMAGES), GOLDEN[f"{kind}/logits"], strict=True):
        assert row.dtype == np.float32
        assert max_difference(row, 1 / (1 + np.exp(-logits.astype(float)))) < 5e-6


def test_a_probability_must_exceed_the_threshold_and_order_is_the_classes(taggers):
    tagger = taggers["ram"]
    at = tagger.thresholds.copy()
    assert tagger.select(at) == []
    at[[40, 3]] = np.nextafter(at[[40, 3]], np.float32(2))
    assert tagger.select(at) == ["tag 3", "tag 40"]


def test_images_of_any_sizes_in_batches(taggers, tagger_models):
    images = [random_image(*size, seed=n) for n, size in enumerate(SIZES[:3] + SIZES[4:])]
    want = np.stack(list(taggers["ram"].probabilities(images)))
    batched = load_tagger(tagger_models["ram"], batch_size=2)
    compiled = class_probabilities._cache_size()
    got = np.stack(list(batched.probabilities(iter(images))))
    assert max_difference(got, want) < 1e-6  # five images, so the last batch is filled up
    assert class_probabilities._cache_size() == compiled + 1
    assert batched([]) == []
    assert max_difference(want[0], want[1]) > 1e-3


def test_batches_take_few_sizes(tagger_models):
    tagger = load_tagger(tagger_models["ram"], batch_size=8)
    assert [tagger._padded_size(n) for n in (1, 2, 3, 5, 8, 9)] == [1, 2, 4, 8, 8, 8]


def test_weights_are_read_when_they_are_needed(tagger_models, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tagger_models["ram"], model)
    tagger = load_tagger(model)
    assert tagger.config.num_classes == 50 and not tagger.config.dape
    (model / "tagger" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights"):
        tagger(IMAGES)


def test_antialiasing_is_set_in_the_folder(tagger_models, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tagger_models["ram"], model)
    path = model / "tagger" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "antialias": True}))
    tagger = load_tagger(model / "tagger")
    image = random_image(600, 600)
    np.testing.assert_array_equal(tagger._prepare(image), resize(image, 224, True))


DEVICES = """
import sys, jax, numpy as np
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from tests.support import ram_files
from tvt_jax.inference.tagging import load_tagger
tagger = load_tagger(sys.argv[2], batch_size=2)
images = [ram_files.image(n % 3, 100 + n, 90) for n in range(9)]
np.save(sys.argv[3], np.stack(list(tagger.probabilities(images))))
batch = jax.device_put(np.zeros((8, 224, 224, 3), "f4"), tagger._split)
shards = tagger._classify(batch).addressable_shards  # each device keeps its part of the result
print(tagger._num_devices, tagger._padded_size(9), len({str(s.index) for s in shards}))
"""


@pytest.mark.slow
def test_four_devices_compute_what_one_does(taggers, tagger_models, tmp_path):
    path = tmp_path / "probabilities.npy"
    command = [sys.executable, "-c", DEVICES, "4", str(tagger_models["ram"]), path]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["4", "8", "4"]
    images = [ram_files.image(n % 3, 100 + n, 90) for n in range(9)]
    want = np.stack(list(taggers["ram"].probabilities(images)))
    assert max_difference(np.load(path), want) < 1e-6


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dtype": "float16"}, "`dtype` float16 is not one of float32, bfloat16"),
        ({"batch_size": 0}, "`batch_size` 0 must be positive"),
        ({"folder": ROOT}, "has no tagger/ folder. Make one with `python -m tvt_jax.convert tagg"),
    ],
)
def test_mistakes(tagger_models, options, match):
    with pytest.raises(UserError, match=match):
        load_tagger(**{"folder": tagger_models["ram"], **options})


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), IMAGES[0][:0]])
def test_arrays_of_another_kind_are_refused(taggers, image):
    with pytest.raises(UserError, match="must be .height, width, 3. uint8"):
        taggers["ram"]([image])


# --------------------------------------------------------------------------------------------------
# The command and its file
# --------------------------------------------------------------------------------------------------


def run_tag(*arguments, expect=0):
    command = [sys.executable, "-m", "tvt_jax.tag", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_command_writes_tags_and_probabilities(taggers, tagger_models, tmp_path):
    """A damaged image is named and the others are done."""
    for name, image in (("a.png", IMAGES[0]), ("sub/b.png", IMAGES[1])):
        write_image(tmp_path / "in" / name, image)
    (tmp_path / "in" / "broken.jpg").write_bytes(b"nothing")
    output = tmp_path / "tags.json"
    done = run_tag(
        "--model", tagger_models["dape"], "--input", tmp_path / "in", "--output", output, expect=2
    )
    assert "broken.jpg is not a readable image" in done.stderr
    assert "1 of 3 images failed" in done.stderr
    assert f"{tmp_path / 'in/a.png'}: tag 26, tag 38\n" in done.stdout
    content = json.loads(output.read_text())
    assert content["classes"] == list(taggers["dape"].names)
    assert list(content["images"]) == ["in/a.png", "in/sub/b.png"]
    want = list(taggers["dape"].probabilities(IMAGES))
    for entry, row in zip(content["images"].values(), want, strict=True):
        assert entry["tags"] == taggers["dape"].select(row)
        assert max_difference(entry["probabilities"], row) < 1e-6


def test_a_file_of_tags_is_read_added_to_and_moved_with_its_images(tmp_path):
    file = TagFile(tmp_path / "one" / "tags.json")
    file.add(tmp_path / "one" / "a.png", ["cat"], ["cat", "dog"], np.array([0.5, 0.25], "f4"))
    file.write()
    shutil.move(tmp_path / "one", tmp_path / "two")
    file = TagFile(tmp_path / "two" / "tags.json")
    assert tmp_path / "two" / "a.png" in file and tmp_path / "one" / "a.png" not in file
    file.add(tmp_path / "b.png", [])
    file.write()
    content = json.loads((tmp_path / "two" / "tags.json").read_text())
    assert content == {
        "classes": ["cat", "dog"],
        "images": {
            "../b.png": {"tags": []},
            "a.png": {"tags": ["cat"], "probabilities": [0.5, 0.25]},
        },
    }
    assert TagFile(tmp_path / "two" / "tags.json")[tmp_path / "two" / "a.png"] == ["cat"]
    with pytest.raises(UserError, match="with another tagger"):
        file.add(tmp_path / "c.png", [], ["cat"], np.array([0.5], "f4"))


def test_a_file_of_tags_is_written_now_and_then(tmp_path, monkeypatch):
    file = TagFile(tmp_path / "tags.json")
    file.add(tmp_path / "a.png", ["cat"])
    assert not file.path.exists()
    monkeypatch.setattr(tag_files, "_SECONDS_BETWEEN_WRITES", 0)
    file.add(tmp_path / "b.png", ["dog"])
    assert TagFile(file.path)[tmp_path / "a.png"] == ["cat"]


@pytest.mark.parametrize(
    "content", ["{}", '{"images": {"a": ["cat"]}}', '{"images": {"a": {}}}', "x"]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "tags.json").write_text(content)
    with pytest.raises(UserError, match="not a file of tags|not valid JSON"):
        TagFile(tmp_path / "tags.json")


def test_threads_share_one_copy_of_the_weights(tagger_models):
    tagger, loaded = load_tagger(tagger_models["ram"]), []
    load, both = tagger._load, threading.Barrier(2)

    def slow_load():
        loaded.append(load())
        time.sleep(0.2)
        return loaded[-1]

    def tag(image):
        both.wait()
        return tagger([image])

    tagger._load = slow_load
    with ThreadPoolExecutor(2) as pool:
        got = [tags for [tags] in pool.map(tag, IMAGES)]
    assert len(loaded) == 1 and got == tagger(IMAGES)


# --------------------------------------------------------------------------------------------------
# Restoration with tags
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tagging_model(small_model, tagger_models, tmp_path_factory):
    """The small model with the small tagger in it."""
    model = tmp_path_factory.mktemp("tagging") / "model"
    shutil.copytree(small_model, model)
    shutil.copytree(tagger_models["dape"] / "tagger", model / "tagger")
    return model


@pytest.fixture(scope="module")
def upscalers(small_model, tagging_model):
    """Loaded once; by model folder."""
    return {path: Upscaler.from_folder(path, "float32") for path in (small_model, tagging_model)}


@pytest.fixture
def prompts(upscalers, monkeypatch):
    """Prompts as they are embedded. What the networks make of them is tested elsewhere."""
    prompts = []

    def run(self, vae, unet, image, *rest):
        return jnp.zeros(image.shape, jnp.float32), True

    for upscaler in upscalers.values():
        monkeypatch.setattr(upscaler, "_embed", prompts.append)
    monkeypatch.setattr(WholePrograms, "_run", run)
    monkeypatch.setattr(Upscaler, "from_folder", lambda model, *_, **__: upscalers[model])
    return prompts


def test_the_prompt_is_the_releases(upscalers, tagging_model, taggers, prompts, monkeypatch):
    """The tagger sees the whole resized input, and the fixed words follow the tags."""
    upscaler, seen = upscalers[tagging_model], []
    tagger = upscaler._tagger
    monkeypatch.setattr(upscaler, "_tagger", lambda images: seen.extend(images) or tagger(images))
    image = ram_files.image(1, 24, 20)
    upscaler(image, scale=1)
    [working] = seen
    assert working.shape == (614, 512, 3)
    tags = taggers["dape"]([working])[0]
    assert tags
    upscaler.restore(image, prompt="my words", tags=tags)
    upscaler.restore(image, tags=["cat", "tree"])
    upscaler.restore(image, tags=())
    assert prompts == [
        f"{', '.join(tags)}, clean, high-resolution, 8k,",
        f"{', '.join(tags)}, my words",
        "cat, tree, clean, high-resolution, 8k,",
        ", clean, high-resolution, 8k,",
    ]
    assert len(seen) == 1  # tagged once, and given tags are not looked for


def test_without_a_tagger_the_words_are_fixed(upscalers, small_model, prompts):
    plain = upscalers[small_model]
    plain.restore(ram_files.image(1, 24, 24))
    assert prompts == [", clean, high-resolution, 8k,"]
    assert not plain.has_tagger


def test_infer_prints_writes_and_reuses_tags(
    tagging_model, small_model, upscalers, prompts, tmp_path, capsys
):
    image = ram_files.image(1, 24, 20)
    write_image(tmp_path / "in.png", image)
    tags, found = tmp_path / "tags.json", upscalers[tagging_model].upscale(image, SCALE_1).tags
    prompts.clear()
    options = dict(input=[tmp_path / "in.png"], output=tmp_path / "out.png", restoration=SCALE_1)
    infer(model=tagging_model, **options, tags=tags)
    assert f"tags: {', '.join(found)}\n" in capsys.readouterr().out
    assert json.loads(tags.read_text()) == {"images": {"in.png": {"tags": list(found)}}}
    # Changed by hand, and reused by a model that has no tagger.
    tags.write_text(json.dumps({"images": {"in.png": {"tags": ["a kite"]}}}))
    infer(model=small_model, **options, tags=tags)
    assert "tags: a kite\n" in capsys.readouterr().out
    infer(model=tagging_model, **options, no_tags=True)
    assert "tags:" not in capsys.readouterr().out
    fixed = "clean, high-resolution, 8k,"
    assert prompts == [f"{', '.join(found)}, {fixed}", f"a kite, {fixed}", f", {fixed}"]


def test_mistakes_with_tags_are_said_at_once(small_model, prompts, tmp_path):
    write_image(tmp_path / "in.png", ram_files.image(1, 8, 8))
    options = dict(input=[tmp_path / "in.png"], output=tmp_path / "out.png")
    with pytest.raises(UserError, match="--no-tags and --tags exclude each other"):
        infer(model=small_model, **options, no_tags=True, tags=tmp_path / "tags.json")
    with pytest.raises(UserError, match="does not list .*in.png, and the model has no tagger"):
        infer(model=small_model, **options, tags=tmp_path / "tags.json")


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from tvt_jax.inference import tagging, upscaler
from tvt_jax.text import load_tokenizer, tokenize
model = Path(sys.argv[1])
tokenizer = load_tokenizer(model / "tokenizer")
print(tokenize(tokenizer, "cat, tree", 77).shape)
tagging.load_tagger(model)._load()
"""


def test_tokens_and_the_tagger_need_no_torch(tagging_model):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(tagging_model)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "(1, 77)\n"


def test_prepare_stores_the_taggers_words(tagger_models, tmp_path):
    """`prepare --tag-with MODEL`: each shard record has what `tag` says of its image."""
    model = tagger_models["ram"]
    prepare([str(HELDOUT_PHOTOGRAPHS)], str(tmp_path / "shards"), tag_with=model, quiet=True)
    [source] = open_sources(DataConfig(train=str(tmp_path / "shards")))
    stored = {Path(s.name).stem: s.tags for s in map(source.read, range(len(source)))}
    paths = sorted(HELDOUT_PHOTOGRAPHS.glob("*.jpg"))
    words = load_tagger(model)([read_image(path) for path in paths])
    assert sum(map(len, words)) > 0
    assert stored == {path.stem: tuple(w) for path, w in zip(paths, words, strict=True)}
