"""Conversion of a release in the authors' layout: what it writes, and what it refuses."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from tests.support.small_release import SmallRelease
from tvt_jax.conversion.official import convert_official
from tvt_jax.errors import UserError


def written(model: Path, part: str) -> dict[str, np.ndarray]:
    [path] = (model / part).glob("*.safetensors")
    return safetensors.numpy.load_file(path)


def test_the_folder_has_the_diffusers_layout(small_model):
    for path in (
        "model_index.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
    ):
        assert (small_model / path).is_file(), path


def test_diffusers_loads_our_unet_and_it_is_the_merged_one(small_release, small_model):
    from diffusers import UNet2DConditionModel

    ours = UNet2DConditionModel.from_pretrained(small_model / "unet").state_dict()
    state = small_release.unet.state_dict()
    adapted = 0
    for name, tensor in ours.items():
        layer, leaf = name.rsplit(".", 1)
        want = state.get(f"{layer}.base_layer.{leaf}", state.get(name))
        adapters = [k for k in state if k.startswith(f"{layer}.lora_A.")]
        if leaf == "weight" and adapters:
            a = state[adapters[0]]
            b = state[adapters[0].replace("lora_A", "lora_B")]
            if a.ndim == 4:  # compose the two convolutions
                delta = torch.einsum("or,rikl->oikl", b[:, :, 0, 0], a)
            else:
                delta = b @ a
            want = want + 2.0 * delta  # alpha 8 over rank 4
            adapted += 1
        torch.testing.assert_close(tensor, want, atol=1e-6, rtol=1e-6)
    assert adapted == 332


def test_vae_and_text_encoder_are_copied_exactly(small_release, small_model):
    for part, reference in (
        ("vae", small_release.vae),
        ("text_encoder", small_release.text_encoder),
    ):
        ours = {k.removeprefix("text_model."): v for k, v in written(small_model, part).items()}
        want = reference.state_dict()
        assert set(ours) == set(want)
        for name in want:
            np.testing.assert_array_equal(ours[name], want[name].numpy())


def convert(release, output, report=lambda line: None, **changes):
    arguments = dict(
        sd=release.sd,
        vae=release.vae_file,
        output=output,
        unet=release.tvt_unet,
        tvt=release.tvt_file,
    )
    convert_official(**{**arguments, **changes}, report=report)


def test_what_is_ignored_is_named(small_release, tmp_path):
    lines = []
    convert(small_release, tmp_path / "model", lines.append)
    text = "\n".join(lines)
    assert "1 tensors under encoder" in text and "2 tensors under loss" in text
    assert "332 adapters of rank 4 are merged" in text


def test_without_the_trained_parts_the_unet_is_the_folders(small_release, tmp_path):
    convert(small_release, tmp_path / "model", tvt=None)
    folder = small_release.tvt_unet / "unet"
    want = safetensors.numpy.load_file(folder / "diffusion_pytorch_model.safetensors")
    for name, array in written(tmp_path / "model", "unet").items():
        np.testing.assert_array_equal(array, want[name])


def test_without_the_unet_it_is_replicated_from_sd(small_release, tmp_path):
    convert(small_release, tmp_path / "model", unet=None, tvt=None)
    got = written(tmp_path / "model", "unet")
    sd = safetensors.numpy.load_file(
        small_release.sd / "unet" / "diffusion_pytorch_model.safetensors"
    )
    np.testing.assert_array_equal(
        got["down_blocks.4.resnets.1.conv1.weight"], sd["down_blocks.3.resnets.1.conv1.weight"]
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes(small_release, tmp_path, dtype):
    convert(small_release, tmp_path / "model", dtype=dtype)
    assert {str(a.dtype) for a in written(tmp_path / "model", "vae").values()} == {dtype}


def test_an_existing_folder_is_not_touched(small_release, tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(UserError, match="exists already"):
        convert(small_release, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


# --------------------------------------------------------------------------------------------------
# Mistakes
# --------------------------------------------------------------------------------------------------


def expect(release, tmp_path, match, **changes):
    output = tmp_path / "never_written"
    with pytest.raises(UserError, match=match) as error:
        convert(release, output, **changes)
    assert "\n" not in str(error.value)
    assert not output.exists() and not list(tmp_path.glob(".never_written*"))


@pytest.mark.parametrize(
    ("flag", "given", "match"),
    [
        ("vae", "tvt_file", "looks like the file for `tvt`"),
        ("tvt", "vae_file", "looks like the file for `vae`"),
        ("sd", "tvt_unet", "lacks text_encoder, tokenizer, scheduler"),
        ("unet", "sd", "has 4 levels"),
        ("vae", "sd", "is a folder"),
    ],
)
def test_a_file_under_the_wrong_flag(small_release, tmp_path, flag, given, match):
    expect(small_release, tmp_path, match, **{flag: getattr(small_release, given)})


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"model": {"visual_encoder.x": torch.ones(1)}}, "looks like the file for `ram`"),
        ({"visual_encoder.lora_A": torch.ones(1)}, "looks like the file for `dape`"),
        ({"foo": torch.ones(1)}, "its keys are: foo"),
    ],
)
def test_the_taggers_files_are_recognised(small_release, tmp_path, keys, match):
    torch.save(keys, tmp_path / "other.pth")
    expect(small_release, tmp_path, match, vae=tmp_path / "other.pth")


@pytest.mark.parametrize("flag", ["vae", "tvt"])
def test_truncated_files(small_release, tmp_path, flag):
    path = tmp_path / "cut"
    source = getattr(small_release, f"{flag}_file")
    path = path.with_suffix(source.suffix)
    path.write_bytes(source.read_bytes()[:-1000])
    expect(small_release, tmp_path, "download it again", **{flag: path})


def changed_tvt(release, tmp_path, change) -> Path:
    content = torch.load(release.tvt_file, weights_only=True)
    change(content)
    path = tmp_path / "changed.pkl"
    torch.save(content, path)
    return path


CHANGES = {
    "a trained layer is left out": (
        lambda c: c["state_dict_unet"].pop("conv_out.base_layer.bias"),
        "conv_out.bias is missing",
    ),
    "an adapter is left out": (
        lambda c: [
            c["state_dict_unet"].pop(f"conv_in.lora_{s}.default_encoder.weight") for s in "AB"
        ],
        "conv_in.lora_A/B.default_encoder is missing",
    ),
    "half an adapter is left out": (
        lambda c: c["state_dict_unet"].pop("conv_in.lora_B.default_encoder.weight"),
        "conv_in.lora_B is missing",
    ),
    "an adapter is not listed": (
        lambda c: c["unet_lora_encoder_modules"].remove("conv_in"),
        "conv_in.lora_A/B.default_encoder is not listed",
    ),
    "a surplus tensor": (
        lambda c: c["state_dict_unet"].update({"down_blocks.0.extra": torch.ones(1)}),
        "down_blocks.0.extra is not a parameter",
    ),
    "a wrong shape": (
        lambda c: c["state_dict_unet"].update({"conv_out.base_layer.bias": torch.ones(9)}),
        r"conv_out.base_layer.bias is \(9,\) instead of \(4,\)",
    ),
    "another rank": (lambda c: c.update(rank_unet=8), "lora_A.*not \\(8, "),
}


@pytest.mark.parametrize("case", CHANGES)
def test_trained_parts_that_do_not_fit(small_release, tmp_path, case):
    change, match = CHANGES[case]
    expect(small_release, tmp_path, match, tvt=changed_tvt(small_release, tmp_path, change))


def changed_vae(release, tmp_path, change) -> Path:
    content = torch.load(release.vae_file, weights_only=True)
    change(content["state_dict"])
    torch.save(content, tmp_path / "vae.ckpt")
    return tmp_path / "vae.ckpt"


VAE_CHANGES = {
    "missing": (
        lambda s: s.pop("vaeDe4.decoder.conv_norm_out.bias"),
        "1 missing: decoder.conv_norm_out.bias",
    ),
    "extra": (
        lambda s: s.update({"vaeDe4.decoder.extra": torch.ones(1)}),
        "1 not part of this network: decoder.extra",
    ),
    "mis-shaped": (
        lambda s: s.update({"vaeDe4.quant_conv.bias": torch.ones(3)}),
        r"1 of another shape: quant_conv.bias \(3,\) instead of \(8,\)",
    ),
}


@pytest.mark.parametrize("case", VAE_CHANGES)
def test_vaes_that_do_not_fit(small_release, tmp_path, case):
    change, match = VAE_CHANGES[case]
    expect(small_release, tmp_path, match, vae=changed_vae(small_release, tmp_path, change))


def test_a_schedule_for_another_prediction_is_refused(small_release, tmp_path):
    sd = tmp_path / "sd"
    shutil.copytree(small_release.sd, sd)
    path = sd / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace('"epsilon"', '"v_prediction"'))
    expect(small_release, tmp_path, "v_prediction.*2.1-base", sd=sd)


def test_stable_diffusion_1_is_refused(small_release, tmp_path):
    sd = tmp_path / "sd"
    shutil.copytree(small_release.sd, sd)
    path = sd / "unet" / "config.json"
    path.write_text(
        path.read_text().replace('"use_linear_projection": true', '"use_linear_projection": false')
    )
    expect(small_release, tmp_path, "Stable Diffusion 1", sd=sd, unet=None, tvt=None)


def test_small_release_has_the_layout_of_the_spec(small_release: SmallRelease):
    """Guards the fixture: the real names, three adapters, the decoys."""
    content = torch.load(small_release.tvt_file, weights_only=True)
    state = content["state_dict_unet"]
    assert {k.rsplit(".", 2)[1] for k in state if "lora" in k} == {
        "default_encoder", "default_decoder", "default_others",
    }  # fmt: skip
    assert "conv_in.base_layer.weight" in state and "conv_in.weight" not in state
    assert not any(k.startswith("down_blocks.1") and "lora" not in k for k in state)
    lightning = torch.load(small_release.vae_file, weights_only=True)["state_dict"]
    assert {k.split(".")[0] for k in lightning} == {"vaeDe4", "encoder", "loss"}
