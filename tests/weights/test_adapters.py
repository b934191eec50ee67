"""Adapters beside the weights of a network: read here, and by diffusers and peft."""

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from diffusers import UNet2DConditionModel

from tests.support.parity import noise
from tests.support.small_sd import small_unet
from tvt_jax.config import LoRAConfig, UNetConfig
from tvt_jax.errors import UserError
from tvt_jax.models.layers import InitKeys
from tvt_jax.models.lora import add_lora
from tvt_jax.training.stage import split_trained
from tvt_jax.weights.adapters import (
    ADAPTER_FILE,
    save_adapters,
    split_trained_params,
)
from tvt_jax.weights.model_folder import load_network, open_network
from tvt_jax.weights.names import torch_tensors

RANK, ALPHA = 2, 8.0


@pytest.fixture
def folder(tmp_path):
    """A UNet's folder with adapters beside its weights, whose B are not zero."""
    torch.manual_seed(0)
    small_unet().save_pretrained(tmp_path)
    network = load_network(tmp_path, "unet", jnp.float32, jnp.float32)
    model = network(network.params)
    add_lora(model, LoRAConfig(RANK), InitKeys(0))
    _, trained, _, _ = split_trained(model, ("conv_in",))
    full, adapters = split_trained_params(trained, torch_tensors(model), LoRAConfig(RANK))
    assert set(full) == {"conv_in.weight", "conv_in.bias"}
    layers = {
        layer: (a, 0.1 * noise(*b.shape, seed=i))
        for i, (layer, (a, b)) in enumerate(sorted(adapters.layers.items()))
    }
    save_adapters(tmp_path, "unet", type(adapters)(adapters.config, layers))
    return tmp_path, layers


def test_they_are_merged_when_the_network_is_opened(folder):
    path, layers = folder
    base = UNet2DConditionModel.from_pretrained(path).state_dict()
    config, merged = open_network(path, "unet")
    assert isinstance(config, UNetConfig) and set(merged) == set(base)
    for name in merged:
        want = base[name].numpy()
        layer = name.removesuffix(".weight")
        if layer in layers:
            a, b = (m.reshape(len(m), -1) for m in layers[layer])
            want = want + ALPHA / RANK * (b @ a).reshape(want.shape)
        np.testing.assert_allclose(merged[name], want, atol=1e-6)


def test_their_strength_is_chosen(folder):
    path, _ = folder
    base = UNet2DConditionModel.from_pretrained(path).state_dict()
    whole, half, none = (open_network(path, "unet", scale)[1] for scale in (1, 0.5, 0))
    changed = 0
    for name in base:
        want = base[name].numpy()
        np.testing.assert_array_equal(none[name], want)
        np.testing.assert_allclose(half[name] - want, (whole[name] - want) / 2, atol=1e-6)
        changed += not np.array_equal(whole[name], want)
    assert changed > 10
    for scale in (-1, float("nan")):
        with pytest.raises(UserError, match="`lora_scale` .* must be 0 or more"):
            open_network(path, "unet", scale)
    (path / ADAPTER_FILE).unlink()
    with pytest.raises(UserError, match="`lora_scale` has no effect: .* keeps no adapters apart"):
        open_network(path, "unet", 0.5)


def test_diffusers_reads_them(folder):
    path, _ = folder
    unet = UNet2DConditionModel.from_pretrained(path).eval()
    unet.load_lora_adapter(path, prefix="unet", weight_name=ADAPTER_FILE)
    _, merged = open_network(path, "unet")
    plain = UNet2DConditionModel.from_pretrained(path).eval()
    plain.load_state_dict({name: torch.from_numpy(np.array(merged[name])) for name in merged})
    latent, text = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 48)
    with torch.no_grad():
        got, want = (u(latent, 7, encoder_hidden_states=text).sample for u in (unet, plain))
    assert (got - want).abs().max() < 1e-4
    assert (want - plain(latent, 8, encoder_hidden_states=text).sample).abs().max() > 1e-4


def rewrite(path, change, metadata=None):
    tensors = safetensors.numpy.load_file(path / ADAPTER_FILE)
    change(tensors)
    safetensors.numpy.save_file(tensors, path / ADAPTER_FILE, metadata=metadata)


def test_a_file_that_does_not_say_its_scale_is_refused(folder):
    path, _ = folder
    rewrite(path, lambda tensors: None)
    with pytest.raises(UserError, match="does not say rank and alpha"):
        open_network(path, "unet")


@pytest.mark.parametrize("mistake", ["missing", "unknown", "shape"])
def test_adapters_that_do_not_fit_are_named(folder, mistake):
    path, _ = folder
    with safetensors.safe_open(path / ADAPTER_FILE, framework="numpy") as file:
        metadata = file.metadata()

    def change(tensors):
        if mistake == "missing":
            del tensors["unet.conv_in.lora_A.weight"]
        elif mistake == "unknown":
            tensors["unet.elsewhere.lora_A.weight"] = np.zeros((2, 3), np.float32)
        else:
            tensors["unet.conv_in.lora_A.weight"] = np.zeros((3, 4, 3, 3), np.float32)

    rewrite(path, change, metadata)
    name = "unet.elsewhere" if mistake == "unknown" else "unet.conv_in.lora_A.weight"
    with pytest.raises(UserError, match=f"does not fit .*{name}"):
        open_network(path, "unet")
