"""The networks at full size: names, shapes and counts, without their memory."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tests.support.small_release import without_mid_blocks
from tvt_jax.benchmarks.complexity import unet_cost, vae_cost
from tvt_jax.config import SD21_TEXT_ENCODER, UNETS, VAES
from tvt_jax.models.networks import abstract_network
from tvt_jax.weights.names import torch_tensors


def shapes_here(kind, config):
    return {t.name: t.shape for t in torch_tensors(abstract_network(kind, config)).values()}


def shapes_there(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("name", ["VAE-D8", "VAE-D4", "V1", "V2", "VAE-D8C8"])
def test_vaes(name):
    config = VAES[name]
    options = {k: v for k, v in config.to_json().items() if not k.startswith("_")}
    for ours in ("mid_block", "skip_connections"):
        options.pop(ours)
    with torch.device("meta"):
        vae = AutoencoderKL(**options)
        if not config.mid_block:
            without_mid_blocks(vae)
    assert shapes_here("vae", config) == shapes_there(vae)


@pytest.mark.parametrize("name", UNETS)
def test_unets(name):
    options = {k: v for k, v in UNETS[name].to_json().items() if not k.startswith("_")}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**options)
    assert shapes_here("unet", UNETS[name]) == shapes_there(unet)


def test_text_encoder():
    with torch.device("meta"):
        encoder = CLIPTextModel(CLIPTextConfig(**SD21_TEXT_ENCODER.to_json()))
    assert shapes_here("text_encoder", SD21_TEXT_ENCODER) == shapes_there(encoder)


# Millions of parameters and trillions of multiply-adds of convolutions and linear layers.
@pytest.mark.parametrize(
    ("cost", "parameters", "multiply_adds"),
    [
        (lambda: vae_cost(VAES["VAE-D8"]), 83.65, 1.78),
        (lambda: vae_cost(VAES["VAE-D4"]), 15.16, 1.1147),
        (lambda: vae_cost(VAES["V1"]), 55.33, None),
        (lambda: vae_cost(VAES["V2"]), 34.34, 1.5511),
        (lambda: unet_cost(UNETS["SD 2.1"], 64), 865.91, 0.3391),
        (lambda: unet_cost(UNETS["SD 2.1"], 128), 865.91, 1.3504),
        (lambda: unet_cost(UNETS["CE-UNet"], 128), 895.96, 0.7326),
    ],
    ids=["VAE-D8", "VAE-D4", "V1", "V2", "SD at 64", "SD at 128", "CE-UNet"],
)
def test_counts(cost, parameters, multiply_adds):
    cost = cost()
    assert round(cost.parameters / 1e6, 2) == parameters
    if multiply_adds is not None:
        digits = len(str(multiply_adds).split(".")[1])
        assert round(cost.layers / 1e12, digits) == multiply_adds


def test_attention_of_the_ce_unet_is_counted():
    assert round(unet_cost(UNETS["CE-UNet"], 128).attention / 1e12, 4) == 0.9261
