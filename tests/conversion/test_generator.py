"""The generator's UNet: what it is made of, what it shares, and the ablations' ways to make it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.support.parity import max_difference, noise
from tests.support.small_sd import small_unet
from tvt_jax.config import CE_UNET, PRUNED_UNET, SD21_UNET, UNetConfig
from tvt_jax.conversion.generator import open_generator, shared_with_sd
from tvt_jax.conversion.latent_channels import interpolation_matrix, inverse_interpolation
from tvt_jax.conversion.pruning import pruned_config, pruned_tensors
from tvt_jax.errors import UserError
from tvt_jax.models.networks import abstract_network
from tvt_jax.weights.names import params_from_torch, torch_tensors
from tvt_jax.weights.tensor_files import Tensors, torch_tensors_as_numpy

CONTEXT = noise(1, 7, 48, seed=1)


@pytest.fixture(scope="module")
def sd():
    torch.manual_seed(0)
    unet = small_unet()
    config = UNetConfig.from_json(dict(unet.config))
    return unet, config, torch_tensors_as_numpy(unet.state_dict(), "sd")


def names_and_shapes(config):
    return {t.name: t.shape for t in torch_tensors(abstract_network("unet", config)).values()}


def run(config, tensors, latent):
    model = abstract_network("unet", config)
    params = params_from_torch(model, tensors, jnp.float32, "unet")
    graph = nnx.graphdef(model)
    call = jax.jit(lambda p, z: nnx.merge(graph, p)(z, jnp.array([7]), CONTEXT))
    return np.asarray(call(params, latent))


def test_everything_but_the_replicas_is_shared(sd):
    _, config, tensors = sd
    made_config, made = open_generator(config, tensors, "replicated", 4)
    assert made_config.block_out_channels == (32, 32, 32)
    shared = shared_with_sd(made, tensors, 1)
    own = {name for name in made if name not in shared}
    # The new level on the way up and the convolution before it. That on the way down is a copy of
    # SD's first level, which is shared as the second.
    assert all(
        n.startswith(("down_blocks.0", "up_blocks.2", "up_blocks.1.upsamplers")) for n in own
    )
    assert {name.split(".")[0] for name in shared} == {
        "conv_in", "time_embedding", "down_blocks", "mid_block", "up_blocks", "conv_norm_out",
        "conv_out",
    }  # fmt: skip
    assert set(shared.values()) == set(tensors)
    assert shared["down_blocks.1.resnets.0.conv1.weight"] == "down_blocks.0.resnets.0.conv1.weight"


def test_what_differs_is_kept_apart(sd):
    _, config, tensors = sd
    name = "mid_block.resnets.0.conv1.weight"
    changed = {name: tensors[name] + 1e-6}
    other = tensors.updated(changed)
    assert set(tensors) - set(shared_with_sd(other, tensors, 0)) == {name}


def test_a_folder_of_another_architecture_is_refused(sd, tmp_path):
    unet, config, tensors = sd
    unet.save_pretrained(tmp_path / "unet")
    assert open_generator(config, tensors, "same", 4, str(tmp_path))[0] == config
    with pytest.raises(UserError, match="levels are \\(32, 32\\) wide instead of \\(32, 32, 32\\)"):
        open_generator(config, tensors, "replicated", 4, str(tmp_path))


def test_eight_channels_start_as_four_do(sd):
    """Ablation S3: interpolated latents give the interpolated prediction of SD's UNet."""
    _, config, tensors = sd
    wide_config, wide = open_generator(config, tensors, "same", 8)
    assert (wide_config.in_channels, wide_config.out_channels) == (8, 8)
    latent, spread = noise(1, 8, 8, 4), interpolation_matrix(4, 8)
    want = run(config, tensors, latent) @ spread.T
    assert max_difference(run(wide_config, wide, latent @ spread.T), want) < 1e-4


def test_interpolation_is_that_of_stage_1_and_has_its_inverse():
    spread = interpolation_matrix(4, 8)
    latent = noise(1, 2, 2, 4)
    want = jax.image.resize(latent, (1, 2, 2, 8), "linear")
    assert max_difference(latent @ spread.T, want) < 1e-6
    assert max_difference(inverse_interpolation(4, 8) @ spread, np.eye(4, dtype=np.float32)) < 1e-6


def test_pruning_gives_the_papers_network():
    assert pruned_config(SD21_UNET) == PRUNED_UNET
    shapes = names_and_shapes(SD21_UNET)
    whole = Tensors("sd", shapes, lambda name: np.zeros(shapes[name], np.float32))
    pruned = pruned_tensors(SD21_UNET, whole)
    assert {name: pruned.shape(name) for name in pruned} == names_and_shapes(PRUNED_UNET)


def test_pruning_follows_heads_halves_and_concatenations(sd):
    _, config, tensors = sd
    pruned_settings, pruned = pruned_config(config), pruned_tensors(config, tensors)
    assert pruned_settings.block_out_channels == (24, 24)
    assert {name: pruned.shape(name) for name in pruned} == names_and_shapes(pruned_settings)
    assert np.isfinite(run(pruned_settings, pruned, noise(1, 8, 8, 4))).all()
    weight = tensors["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
    kept = pruned["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
    # Two heads of 16 channels become two heads of 12.
    np.testing.assert_array_equal(kept[12:], weight[16:28, :24])
    # A ResNet block on the way up reads what comes from below and what was stored.
    weight, kept = (t["up_blocks.1.resnets.0.conv1.weight"] for t in (tensors, pruned))
    np.testing.assert_array_equal(kept[:, 24:], weight[:24, 32:56])
    weight, kept = (
        t["mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight"]
        for t in (tensors, pruned)
    )
    np.testing.assert_array_equal(kept[96:], weight[128:224, :24])  # the gates


def test_the_paper_replicates_sd():
    shapes = names_and_shapes(SD21_UNET)
    whole = Tensors("sd", shapes, lambda name: np.zeros(shapes[name], np.float32))
    config, made = open_generator(SD21_UNET, whole, "replicated", 4)
    assert config == CE_UNET
    assert {name: made.shape(name) for name in made} == names_and_shapes(CE_UNET)


def test_a_unet_that_cannot_be_pruned_is_refused(sd):
    _, config, tensors = sd
    odd = dataclasses.replace(
        config, block_out_channels=(36, 36), norm_num_groups=4, attention_head_dim=4
    )
    with pytest.raises(UserError, match="sd cannot be pruned"):
        open_generator(odd, tensors, "pruned", 4)
