"""Out to PyTorch: read back tensor by tensor, and run by diffusers and peft."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from transformers import CLIPTextModel

from tests.support.parity import noise
from tests.support.small_release import GROUPS, SmallRelease, without_mid_blocks
from tvt_jax.bundled import SMALL_MODEL
from tvt_jax.config import LoRAConfig
from tvt_jax.conversion.official import convert_official
from tvt_jax.conversion.to_pytorch import convert_to_pytorch
from tvt_jax.errors import UserError
from tvt_jax.models.lora import lora_targets
from tvt_jax.models.networks import abstract_network
from tvt_jax.weights.adapters import Adapters
from tvt_jax.weights.model_folder import (
    open_network,
    open_network_and_adapters,
    read_network_config,
    save_network,
    write_trained_model,
)

ROOT = Path(__file__).parent.parent.parent
RANK = 4


def out_and_back(model, folder):
    """Converts to PyTorch, and that to a model folder; returns both."""
    out, back = folder / "pytorch", folder / "back"
    convert_to_pytorch(model, out, report=lambda line: None)
    optional = {
        "tvt": out / "model_TVT.pkl",
        "ram": out / "ram_swin_large_14m.pth",
        "dape": out / "DAPE.pth",
        "ram_data": out / "ram_data",
    }
    convert_official(
        out / "stable-diffusion-2-1-base", out / "vae.ckpt", back, out / "TVTUNet",
        vae_config=out / "vae_config.json", report=lambda line: None,
        **{name: path for name, path in optional.items() if path.exists()},
    )  # fmt: skip
    return out, back


def assert_same_models(model, other, kinds):
    for kind in kinds:
        (config, tensors), (other_config, others) = (
            open_network(m / kind, kind) for m in (model, other)
        )
        assert config == other_config and set(tensors) == set(others)
        for name in tensors:
            np.testing.assert_array_equal(others[name], tensors[name], err_msg=name)


@pytest.fixture(scope="module")
def with_tagger(small_model, tagger_models, tmp_path_factory):
    model = tmp_path_factory.mktemp("whole") / "model"
    shutil.copytree(small_model, model)
    shutil.copytree(tagger_models["dape"] / "tagger", model / "tagger")
    return model


def test_a_release_comes_back(with_tagger, tmp_path):
    out, back = out_and_back(with_tagger, tmp_path)
    assert_same_models(with_tagger, back, ("vae", "unet", "text_encoder", "tagger"))
    for name in ("tokenizer/vocab.json", "scheduler/scheduler_config.json"):
        assert json.loads((back / name).read_text()) == json.loads((with_tagger / name).read_text())
    for path in (with_tagger / "tagger").glob("*.txt"):
        assert (back / "tagger" / path.name).read_bytes() == path.read_bytes()
    text = (out / "README.txt").read_text()
    assert "--ram ram_swin_large_14m.pth --ram-data ram_data --dape DAPE.pth" in text


def test_the_bundled_model_comes_back(tmp_path):
    """Float16, with a stored embedding, and with a VAE that diffusers reads."""
    out, back = out_and_back(SMALL_MODEL, tmp_path)
    assert_same_models(SMALL_MODEL, back, ("vae", "unet"))
    embeds = "prompt_embeds.safetensors"
    assert (back / embeds).read_bytes() == (SMALL_MODEL / embeds).read_bytes()
    assert torch.load(out / "vae.ckpt")["state_dict"]["vaeDe4.encoder.conv_in.weight"].dtype == (
        torch.float16
    )


@pytest.fixture(scope="module")
def with_adapters(small_model, tmp_path_factory):
    """The small model with random adapters beside its UNet."""
    model = tmp_path_factory.mktemp("adapters") / "model"
    config, tensors = open_network(small_model / "unet", "unet")
    lora = LoRAConfig(RANK)
    layers = {}
    for seed, layer in enumerate(lora_targets(abstract_network("unet", config), lora)):
        out, *rest = tensors.shape(f"{layer}.weight")
        a = noise(RANK, *rest, seed=2 * seed) / RANK
        layers[layer] = (a, 0.1 * noise(out, RANK, *(1 for _ in rest[1:]), seed=2 * seed + 1))
    unet = (config, tensors, Adapters(lora, layers))
    vae = (*open_network(small_model / "vae", "vae"), Adapters(LoRAConfig(0), {}))
    write_trained_model(model, small_model, unet, vae, merge=False)
    return model


def test_adapters_apart_come_back_merged(with_adapters, tmp_path):
    out, back = out_and_back(with_adapters, tmp_path)
    assert_same_models(with_adapters, back, ("vae", "unet", "text_encoder"))
    _, _, adapters = open_network_and_adapters(with_adapters / "unet", "unet")
    assert len(adapters.layers) == 332
    content = torch.load(out / "model_TVT.pkl", weights_only=True)
    parts = [content[f"unet_lora_{part}_modules"] for part in ("encoder", "decoder", "others")]
    assert sorted(sum(parts, [])) == sorted(adapters.layers) and all(parts)


@pytest.mark.slow
def test_a_run_of_stage_3_goes_out_and_comes_back(tmp_path):
    command = [
        sys.executable, "-m", "tvt_jax.train", "--config", f"{ROOT}/configs/stage3.py:tiny",
        "--workdir", str(tmp_path / "run"), "--config.steps=2", "--config.adapters=True",
        "--config.optim.warmup_steps=0", "--config.validation.every=2", "--quiet",
    ]  # fmt: skip
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    model = tmp_path / "run" / "model"
    out, back = out_and_back(model, tmp_path)
    assert_same_models(model, back, ("vae", "unet"))
    _, _, adapters = open_network_and_adapters(model / "unet", "unet")
    state = torch.load(out / "model_TVT.pkl", weights_only=True)["state_dict_unet"]
    assert np.mean([b.any() for _, b in adapters.layers.values()]) > 0.5  # they were trained
    for layer, (a, b) in adapters.layers.items():
        [name] = [n for n in state if n.startswith(f"{layer}.lora_B.")]
        np.testing.assert_array_equal(state[name], b)
        np.testing.assert_array_equal(state[name.replace("lora_B", "lora_A")], a)


def peft_unet(out) -> UNet2DConditionModel:
    """The UNet as the release loads it (`TVT_test`, with the adapters that the file lists)."""
    unet = UNet2DConditionModel.from_pretrained(out / "TVTUNet", subfolder="unet").eval()
    content = torch.load(out / "model_TVT.pkl", weights_only=True)
    parts = ("encoder", "decoder", "others")
    for part in parts:
        config = LoraConfig(
            r=content["rank_unet"],
            init_lora_weights="gaussian",
            target_modules=content[f"unet_lora_{part}_modules"],
        )
        unet.add_adapter(config, adapter_name=f"default_{part}")
    unet.set_adapter([f"default_{part}" for part in parts])
    state = dict(unet.named_parameters())
    assert set(content["state_dict_unet"]) <= set(state)
    lora = {name for name in state if "lora" in name}
    assert lora <= set(content["state_dict_unet"])
    unet.load_state_dict(content["state_dict_unet"], strict=False)
    return unet


def test_diffusers_and_peft_make_the_same_image(with_adapters, tmp_path):
    from diffusers import AutoencoderKL

    from tvt_jax.inference.upscaler import Upscaler

    convert_to_pytorch(with_adapters, tmp_path / "out", report=lambda line: None)
    out = tmp_path / "out"
    # As README.txt has it.
    vae = AutoencoderKL.from_config(json.loads((out / "vae_config.json").read_text()))
    vae = without_mid_blocks(vae).eval()
    state = torch.load(out / "vae.ckpt", weights_only=True)["state_dict"]
    vae.load_state_dict({name.removeprefix("vaeDe4."): t for name, t in state.items()})
    text = CLIPTextModel.from_pretrained(out / "stable-diffusion-2-1-base" / "text_encoder")
    release = SmallRelease(out, vae, peft_unet(out), text.eval())

    image = np.random.default_rng(0).integers(0, 256, (64, 88, 3), np.uint8)
    prompt = "a sign, clean"
    want = release.restore(image, prompt)
    ours = Upscaler.from_folder(with_adapters, "float32").restore(
        image, prompt=prompt, color_fix="none"
    )
    assert want.std() > 0.05 and np.abs(ours - want).max() < 1e-4


def test_a_vae_that_diffusers_has_is_a_diffusers_folder(small_model, tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(GROUPS, GROUPS), norm_num_groups=GROUPS,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    model = tmp_path / "model"
    shutil.copytree(small_model, model, ignore=shutil.ignore_patterns("vae"))
    vae.save_pretrained(model / "vae")
    config, tensors = open_network(model / "vae", "vae")
    save_network(model / "vae", "vae", config, tensors, "bfloat16")
    out, back = out_and_back(model, tmp_path)
    read = AutoencoderKL.from_pretrained(out / "vae", torch_dtype=torch.bfloat16).state_dict()
    for name, tensor in vae.state_dict().items():
        assert torch.equal(read[name], tensor.to(torch.bfloat16))
    assert_same_models(model, back, ("vae",))
    assert read_network_config(back / "vae", "vae").mid_block


def test_a_full_disk_is_one_line_and_nothing_is_left(small_model, tmp_path, monkeypatch):
    def full(content, path):
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="cannot write .*vae.ckpt: PytorchStreamWriter"):
        convert_to_pytorch(small_model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists_and_a_folder_without_a_model_are_refused(small_model, tmp_path):
    with pytest.raises(UserError, match="`model` .* is not a model folder"):
        convert_to_pytorch(tmp_path, tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(UserError, match="exists already"):
        convert_to_pytorch(small_model, tmp_path / "out")
