"""The compute-efficient UNet from SD's weights."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.support.small_release import ce_unet, sd_unet
from tvt_jax.config import CE_UNET, SD21_UNET, UNetConfig
from tvt_jax.conversion.replication import replicated_config, replicated_tensors
from tvt_jax.models.networks import abstract_network
from tvt_jax.weights.names import params_from_torch
from tvt_jax.weights.tensor_files import torch_tensors_as_numpy


@pytest.fixture(scope="module")
def replicated():
    torch.manual_seed(0)
    sd = sd_unet()
    config = UNetConfig.from_json(dict(sd.config))
    tensors = torch_tensors_as_numpy(sd.state_dict(), "sd")
    return sd, config, replicated_tensors(config, tensors)


def test_the_configuration_is_the_papers():
    assert replicated_config(SD21_UNET) == CE_UNET


def test_names_and_shapes_are_those_of_diffusers(replicated):
    _, _, tensors = replicated
    want = {name: tuple(t.shape) for name, t in ce_unet().state_dict().items()}
    assert {name: tensors.shape(name) for name in tensors} == want
    assert all(tensors[name].shape == shape for name, shape in want.items())


def test_it_fits_the_network_here(replicated):
    _, config, tensors = replicated
    model = abstract_network("unet", replicated_config(config))
    params_from_torch(model, tensors, jnp.float32, "replicated")


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("conv_in.weight", "conv_in.weight"),
        ("time_embedding.linear_1.weight", "time_embedding.linear_1.weight"),
        ("down_blocks.0.resnets.1.conv1.weight", "down_blocks.0.resnets.1.conv1.weight"),
        ("down_blocks.0.downsamplers.0.conv.weight", "down_blocks.0.downsamplers.0.conv.weight"),
        ("down_blocks.1.resnets.1.conv1.weight", "down_blocks.0.resnets.1.conv1.weight"),
        ("down_blocks.4.resnets.0.conv2.bias", "down_blocks.3.resnets.0.conv2.bias"),
        ("mid_block.resnets.1.conv1.weight", "mid_block.resnets.1.conv1.weight"),
        ("up_blocks.0.resnets.2.conv1.weight", "up_blocks.0.resnets.2.conv1.weight"),
        ("up_blocks.3.resnets.0.conv1.weight", "up_blocks.3.resnets.0.conv1.weight"),
        ("up_blocks.4.resnets.0.conv1.weight", "up_blocks.3.resnets.1.conv1.weight"),
        ("up_blocks.4.resnets.1.conv1.weight", "up_blocks.3.resnets.1.conv1.weight"),
        ("up_blocks.4.resnets.2.conv1.weight", "up_blocks.3.resnets.2.conv1.weight"),
        (
            "up_blocks.4.attentions.0.proj_in.weight",
            "up_blocks.3.attentions.0.proj_in.weight",
        ),
        ("conv_out.bias", "conv_out.bias"),
    ],
)
def test_where_each_value_comes_from(replicated, name, origin):
    sd, _, tensors = replicated
    np.testing.assert_array_equal(tensors[name], sd.state_dict()[origin].numpy())


def test_the_new_enlargement_starts_as_the_identity(replicated):
    _, _, tensors = replicated
    weight = torch.from_numpy(tensors["up_blocks.3.upsamplers.0.conv.weight"])
    bias = torch.from_numpy(tensors["up_blocks.3.upsamplers.0.conv.bias"])
    x = torch.randn(1, weight.shape[1], 5, 6)
    torch.testing.assert_close(torch.nn.functional.conv2d(x, weight, bias, padding=1), x)
