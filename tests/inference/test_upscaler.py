"""From a picture to a picture, against the release's pipeline in PyTorch."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tests.support.image_kinds import deep_png, profile, srgb_to, values
from tvt_jax import memory
from tvt_jax.errors import UserError
from tvt_jax.images import read_image, write_image
from tvt_jax.infer import infer
from tvt_jax.inference import sizing
from tvt_jax.inference.options import RestorationOptions
from tvt_jax.inference.sizing import enlarge, plan_sizes
from tvt_jax.inference.upscaler import Upscaler
from tvt_jax.text import build_prompt, load_text
from tvt_jax.weights.prompt_embeds import PromptEmbeds, save_prompt_embeds

PROMPT = ", clean, high-resolution, 8k,"


def picture(height, width, seed=0):
    """Smooth colours with some noise."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(x / (5 + c) + y / (7 - c)) for c in range(3)]
    noise = np.random.default_rng(seed).normal(0, 8, (height, width, 3))
    return np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def upscaler(small_model):
    return Upscaler.from_folder(small_model, "float32")


@pytest.fixture(scope="module")
def restored(upscaler):
    """(enlarged input, our unrounded output), 88 x 64: a size that SD's strides do not divide."""
    image = picture(64, 88)
    return image, upscaler.restore(image, color_fix="none")


@pytest.fixture(scope="module")
def local_upscaler(local_model):
    return Upscaler.from_folder(local_model, "float32")


def test_equals_the_release_before_rounding(small_release, restored):
    image, ours = restored
    want = small_release.restore(image, PROMPT)
    assert want.std() > 0.05  # the network does something
    assert np.abs(ours - want).max() < 1e-4


@pytest.mark.slow
def test_a_file_through_the_command_equals_the_release(small_release, small_model, tmp_path):
    """`infer --color-fix none --dtype float32` on a picture that the release enlarges first.

    To 576 x 512 px: other sizes the release shrinks to multiples of 8, where we pad and cut.
    """
    image = picture(40, 45)
    write_image(tmp_path / "in.png", image)
    run_infer(
        "--model", small_model, "--input", tmp_path / "in.png", "--output", tmp_path / "out.png",
        "--color-fix", "none", "--dtype", "float32", "--scale", "1",
    )  # fmt: skip
    got = read_image(tmp_path / "out.png")
    plan = plan_sizes(45, 40, 1)
    want = small_release.restore(enlarge(image, plan), PROMPT)
    want = Image.fromarray(np.round(want * 255).astype(np.uint8))
    want = np.asarray(want.resize((45, 40), Image.Resampling.BICUBIC))
    assert got.shape == image.shape
    assert np.abs(got.astype(int) - want).max() <= 1


def test_folders_are_mirrored_and_damage_is_named(local_model, tmp_path, monkeypatch, capsys):
    """A folder in, a mirrored folder out; a damaged picture is named and the others are done."""
    monkeypatch.setattr(sizing, "_PROCESS_SIZE", 32)  # else every picture is enlarged to 512 px
    for name in ("a.png", "sub/b.png"):
        write_image(tmp_path / "in" / name, picture(16, 16))
    (tmp_path / "in" / "broken.jpg").write_bytes(b"nothing")
    options = dict(
        model=local_model,
        input=[tmp_path / "in"],
        output=tmp_path / "out",
        restoration=RestorationOptions(scale=1),
        skip_existing=True,
    )
    with pytest.raises(UserError, match="1 of 3 images failed"):
        infer(**options)
    assert "broken.jpg is not a readable image" in capsys.readouterr().err
    first, second = (read_image(tmp_path / "out" / name) for name in ("a.png", "sub/b.png"))
    np.testing.assert_array_equal(first, second)
    want = Upscaler.from_folder(local_model)(picture(16, 16), scale=1)
    np.testing.assert_array_equal(first, want)
    with pytest.raises(UserError, match="broken.jpg"):
        infer(**options)
    assert "skipped 2" in capsys.readouterr().out


def run_infer(*arguments, expect=0):
    command = [sys.executable, "-m", "tvt_jax.infer", *map(str, arguments)]
    # Compiled as for users: a picture of 512 px computes more than it compiles.
    env = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == expect, done.stderr
    return done


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--input", "x.png"], "does not exist"),
        (["--input", "{picture}", "--scale", "0"], "--scale 0.0 is not between 1 and 8"),
        (["--input", "{picture}", "--seed", "1"], "--seed has no effect"),
        (["--input", "{picture}", "--model", "nowhere"], "--model nowhere is not a model folder"),
        (["--input", "{picture}", "--sharpness", "3"], "--sharpness"),
    ],
)
def test_mistakes_end_with_status_2_and_no_traceback(tmp_path, small_model, arguments, match):
    write_image(tmp_path / "a.png", picture(8, 8))
    filled = [a.format(picture=tmp_path / "a.png") for a in arguments]
    defaults = ["--model", str(small_model), "--output", str(tmp_path / "out.png")]
    done = run_infer(*defaults, *filled, expect=2)
    assert match in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(scale=0.5), "^`scale` 0.5 is not between 1 and 8"),
        (dict(scale=float("nan")), "^`scale` nan"),
        (dict(blend=1.5), "^`blend` 1.5 is not between 0 and 1"),
        (dict(color_fix="sepia"), "^`color_fix` sepia is not one of adain, wavelet, lab, none"),
        (dict(posterior="median"), "^`posterior` median is not one of mean, sample"),
        (dict(seed=1), "^`seed` has no effect unless `posterior` is sample"),
        (dict(posterior="sample", seed=-1), "^`seed` -1 is not between 0 and"),
    ],
)
def test_options_are_checked_in_one_place(upscaler, options, match):
    """The API names parameters; the command puts its options in their place (above)."""
    with pytest.raises(UserError, match=match):
        RestorationOptions(**options)
    with pytest.raises(UserError, match=match):
        upscaler(picture(8, 8), **options)


def test_options_come_whole_or_by_name(upscaler, restored):
    image, want = restored
    options = RestorationOptions(color_fix="none")
    np.testing.assert_array_equal(upscaler.restore(image, options), want)
    changed = upscaler.restore(image, RestorationOptions(prompt="a cat"), color_fix="none")
    assert np.abs(changed - want).max() > 1e-5
    with pytest.raises(TypeError, match="sharpness"):
        upscaler(image, sharpness=3)


def test_repeats_exactly_and_samples_follow_the_seed(local_upscaler):
    image = picture(64, 88)
    first, again = (local_upscaler.restore(image, color_fix="none") for _ in range(2))
    np.testing.assert_array_equal(again, first)
    draws = [
        local_upscaler.restore(image, color_fix="none", posterior="sample", seed=seed)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 1e-3
    assert np.abs(draws[0] - first).max() > 1e-3


def test_sixteen_bits_come_out_as_sixteen_bits(local_upscaler, monkeypatch):
    """The same numbers as of 8 bits, and 257 times as fine."""
    monkeypatch.setattr(sizing, "_PROCESS_SIZE", 32)
    image = picture(64, 88)
    want = local_upscaler.restore(image, color_fix="none")
    deep = image.astype(np.uint16) * 257
    # Rounding in the last bit of the input, after two networks.
    np.testing.assert_allclose(local_upscaler.restore(deep, color_fix="none"), want, atol=1e-4)
    got = local_upscaler(deep, scale=1, color_fix="none")
    assert got.dtype == np.uint16
    np.testing.assert_allclose(got / 65535, np.clip(want, 0, 1), atol=1e-4)
    assert len(np.unique(got)) > 256
    large = local_upscaler(deep, scale=1.5, color_fix="adain")
    assert large.shape == (96, 132, 3)
    whole = local_upscaler.restore(enlarge(deep, plan_sizes(88, 64, 1.5)), color_fix="adain")
    np.testing.assert_allclose(large / 65535, np.clip(whole, 0, 1), atol=1 / 65535)


def test_an_image_of_another_color_space_gives_the_same_image(
    local_upscaler, tmp_path, monkeypatch
):
    """Within 2/255 of what its sRGB version gives; the networks amplify what conversion rounds."""
    monkeypatch.setattr(sizing, "_PROCESS_SIZE", 32)
    srgb = 0.2 + 0.6 * picture(64, 88) / 255
    wide = srgb_to("Display P3", srgb)
    for name, colors, icc in (("srgb", srgb, None), ("p3", wide, profile("Display P3"))):
        data = deep_png(np.round(colors * 65535).astype(np.uint16), icc)
        (tmp_path / f"{name}.png").write_bytes(data)
        target = tmp_path / f"{name}_x1.png"
        local_upscaler.upscale_file(tmp_path / f"{name}.png", target, scale=1)
    plain, got = (values((tmp_path / f"{n}_x1.png").read_bytes()) / 65535 for n in ("srgb", "p3"))
    assert np.abs(got - srgb_to("Display P3", plain)).max() <= 2 / 255


def test_the_prompt_matters(upscaler, restored):
    image, first = restored
    other = upscaler.restore(image, prompt="a cat", color_fix="none")
    assert np.abs(other - first).max() > 1e-5


@pytest.fixture(scope="module")
def textless_model(small_model, small_release, tmp_path_factory):
    """The small model with what its text encoder says to the fixed words in the encoder's place."""
    model = tmp_path_factory.mktemp("textless") / "model"
    shutil.copytree(small_model, model, ignore=shutil.ignore_patterns("text_encoder", "tokenizer"))
    embedding = np.asarray(load_text(small_model, np.float32).embed(PROMPT))
    save_prompt_embeds(model, PromptEmbeds(embedding, -embedding))
    return model


def test_a_stored_embedding_stands_for_the_text_encoder(textless_model, restored):
    image, want = restored
    upscaler = Upscaler.from_folder(textless_model, "float32")
    assert not upscaler.takes_prompts and not upscaler.has_tagger
    # The embedding is the same and so is the program; `want` is compared with PyTorch above.
    np.testing.assert_array_equal(upscaler.restore(image, color_fix="none"), want)
    np.testing.assert_array_equal(
        upscaler.restore(image, color_fix="none", tags=()),
        upscaler.restore(image, color_fix="none"),
    )


def test_a_model_with_a_stored_embedding_takes_no_text(textless_model, tmp_path):
    upscaler = Upscaler.from_folder(textless_model, "float32")
    for words in (dict(prompt="a cat"), dict(prompt=""), dict(tags=["cat"])):
        with pytest.raises(UserError, match="no text encoder.* neither a prompt nor tags"):
            upscaler.restore(picture(24, 24), **words)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, picture(8, 8))
    # Said once, before any picture.
    for words in (
        dict(restoration=RestorationOptions(prompt="a cat")),
        dict(tags=tmp_path / "tags.json"),
    ):
        with pytest.raises(UserError, match="no text encoder"):
            infer([tmp_path / "in"], tmp_path / "out", textless_model, **words)
    assert not (tmp_path / "out").exists()


def test_a_stored_embedding_of_another_width_is_refused(textless_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(textless_model, model)
    wide = np.zeros((1, 4, 40), np.float32)
    save_prompt_embeds(model, PromptEmbeds(wide, wide))
    with pytest.raises(UserError, match="stored prompt embedding is 40 wide, the UNet wants 48"):
        Upscaler.from_folder(model)


def test_one_compilation_for_each_padded_size(local_upscaler):
    before = set(local_upscaler._whole_programs._compiled)
    sizes = [(17, 23), (18, 24), (18, 23)]  # all padded to 18 x 24
    outputs = [local_upscaler.restore(picture(*size)) for size in sizes]
    assert [o.shape[:2] for o in outputs] == sizes
    assert len(set(local_upscaler._whole_programs._compiled) - before) == 1


def test_what_many_images_leave_in_memory_is_bounded(local_upscaler, monkeypatch):
    from tvt_jax.inference import whole_programs as module

    monkeypatch.setattr(module, "_MOST_PROGRAMS", 2)
    programs = local_upscaler._whole_programs
    for name in ("_compiled", "_fixes"):
        monkeypatch.setattr(programs, name, {"first": None, "second": None})
    local_upscaler.restore(picture(24, 24))
    for kept in (programs._compiled, programs._fixes):
        assert list(kept)[0] == "second" and len(kept) == 2
    # An embedding takes 315 KB at full size.
    assert local_upscaler._embed.cache_info().maxsize == 64


@pytest.mark.parametrize("method", ["adain", "wavelet", "lab"])
def test_colour_fix_sees_the_whole_cropped_image(upscaler, restored, method):
    from tvt_jax.inference.color import color_fix

    image, raw = restored
    got = upscaler.restore(image, color_fix=method)
    want = color_fix(raw, image.astype(np.float32) / 255, method)
    np.testing.assert_allclose(got, want, atol=1e-5)  # powers round otherwise when compiled


def test_blending_with_the_input(upscaler, restored):
    image, raw = restored
    got = upscaler.restore(image, color_fix="none", blend=0.25)
    np.testing.assert_allclose(got, 0.75 * raw + 0.25 * image / 255.0, atol=1e-6)
    got = upscaler.restore(image, color_fix="none", blend=1)
    np.testing.assert_allclose(got, image / 255.0, atol=1e-6)


def test_a_prompt_that_is_too_long_is_said(upscaler, restored, capsys):
    image, _ = restored
    upscaler.restore(image, prompt="a cat", color_fix="none")
    assert "prompt" not in capsys.readouterr().err
    words = " ".join(["word"] * 100) + " end"
    upscaler.restore(image, prompt=words, color_fix="none")
    assert "the prompt is too long, this is not read: " in (said := capsys.readouterr().err)
    assert said.rstrip().endswith("end")


def test_the_release_formats_prompts_like_this():
    assert build_prompt([]) == PROMPT
    assert build_prompt(["cat", "tree"]) == "cat, tree, clean, high-resolution, 8k,"
    assert build_prompt([], "my words") == "my words"
    assert build_prompt(["cat"], "my words") == "cat, my words"


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (np.zeros((4, 4), np.uint8), "must be"),
        (np.zeros((4, 4, 3), np.float32), "must be"),
        (np.zeros((0, 4, 3), np.uint8), "must be"),
    ],
)
def test_arrays_of_another_kind_are_refused(upscaler, image, match):
    with pytest.raises(UserError, match="`image` " + match):
        upscaler(image)


def test_too_little_memory_is_said_before_it_runs(local_model, monkeypatch):
    fresh = Upscaler.from_folder(local_model, "float32")
    monkeypatch.setattr(memory, "free_memory", lambda: 2**10)
    with pytest.raises(UserError, match="GiB of memory and 0.0 GiB are free"):
        fresh.restore(picture(24, 24))


def broken_copy(small_model, tmp_path, part, change):
    model = tmp_path / "model"
    shutil.copytree(small_model, model)
    [path] = (model / part).glob("*.safetensors")
    arrays = safetensors.numpy.load_file(path)
    change(arrays)
    safetensors.numpy.save_file(arrays, path)
    return model


def test_a_result_that_is_not_finite_is_not_returned(local_model, tmp_path):
    def poison(arrays):
        arrays["conv_out.bias"][0] = np.nan

    model = broken_copy(local_model, tmp_path, "unet", poison)
    with pytest.raises(UserError, match="not finite"):
        Upscaler.from_folder(model, "float32").restore(picture(24, 24))


def test_overflow_in_bfloat16_is_computed_again_in_float32(local_model, monkeypatch, capsys):
    from tvt_jax.inference import whole_programs as module

    real = module._one_step

    def overflowing(vae, unet, *arguments):
        assert vae.dtype == unet.dtype
        image, finite = real(vae, unet, *arguments)
        low = unet.dtype != np.float32
        return (image * np.nan, finite & False) if low else (image, finite)

    monkeypatch.setattr(module, "_one_step", overflowing)
    restored = Upscaler.from_folder(local_model, "bfloat16").restore(picture(24, 24))
    assert np.isfinite(restored).all()
    assert "float32" in capsys.readouterr().err
    # In float16 the VAE's values would overflow.
    assert Upscaler.from_folder(local_model, "float16")._vae.dtype == np.float32


def test_folders_that_do_not_belong_together_are_refused(small_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(small_model, model)
    config = json.loads((model / "unet" / "config.json").read_text())
    (model / "unet" / "config.json").write_text(json.dumps({**config, "cross_attention_dim": 40}))
    with pytest.raises(UserError, match="does not fit the network of its config"):
        Upscaler.from_folder(model)
    for missing in ("unet", "tokenizer", "scheduler"):
        other = tmp_path / f"without_{missing}"
        shutil.copytree(small_model, other)
        shutil.rmtree(other / missing)
        with pytest.raises(UserError, match=missing):
            Upscaler.from_folder(other)
