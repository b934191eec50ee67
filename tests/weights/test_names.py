"""The checks at the border: whatever does not fit is named, and nothing half-fitting passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.support.parity import max_difference
from tests.support.small_release import sd_unet
from tvt_jax.config import UNetConfig
from tvt_jax.errors import UserError
from tvt_jax.models.networks import abstract_network
from tvt_jax.weights.names import (
    assert_same_structure,
    params_from_torch,
    params_to_torch,
    torch_tensors,
)


@pytest.fixture(scope="module")
def unet():
    """(abstract module, state dict of the PyTorch original)."""
    torch.manual_seed(0)
    reference = sd_unet()
    config = UNetConfig.from_json(dict(reference.config))
    state = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    return abstract_network("unet", config), state


def convert(unet, state):
    return params_from_torch(unet[0], state, jnp.float32, "file")


def test_there_and_back_is_the_identity(unet):
    model, state = unet
    back = params_to_torch(model, convert(unet, state))
    assert list(back) != [] and set(back) == set(state)
    for name in state:
        np.testing.assert_array_equal(back[name], state[name])


# One tensor of each kind of module.
LEAVES = [
    "conv_in.weight",
    "conv_in.bias",
    "down_blocks.0.resnets.0.norm1.weight",
    "down_blocks.0.resnets.0.time_emb_proj.weight",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    "mid_block.attentions.0.transformer_blocks.0.norm3.bias",
    "up_blocks.0.upsamplers.0.conv.weight",
    "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.weight",
]


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_missing_leaf_is_named(unet, leaf):
    state = {k: v for k, v in unet[1].items() if k != leaf}
    with pytest.raises(UserError, match=f"1 missing: {leaf}"):
        convert(unet, state)


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_renamed_leaf_is_named_both_ways(unet, leaf):
    state = {(f"{k}_" if k == leaf else k): v for k, v in unet[1].items()}
    with pytest.raises(UserError, match=f"1 missing: {leaf}; 1 not part of this network: {leaf}_"):
        convert(unet, state)


@pytest.mark.parametrize("leaf", [name for name in LEAVES if name.endswith("proj.weight")])
def test_a_transposed_leaf_is_named(unet, leaf):
    state = {k: (v.T if k == leaf else v) for k, v in unet[1].items()}
    with pytest.raises(UserError, match=rf"1 of another shape: {leaf} \("):
        convert(unet, state)


def test_a_transposed_square_leaf_changes_the_output(unet):
    """Shapes cannot show this one; the parity tests do."""
    model, state = unet
    leaf = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert state[leaf].shape[0] == state[leaf].shape[1]
    wrong = {k: (v.T.copy() if k == leaf else v) for k, v in state.items()}
    # Four tokens in the middle: with one, queries have nothing to choose from.
    latent, context = jnp.ones((1, 16, 16, 4)), jnp.ones((1, 3, 48))
    latent = latent * jnp.arange(256.0).reshape(1, 16, 16, 1) / 256
    call = jax.jit(lambda p: nnx.merge(nnx.graphdef(model), p)(latent, jnp.array([1]), context))
    outputs = [call(convert(unet, s)) for s in (state, wrong)]
    assert max_difference(*outputs) > 1e-4  # ten times the tolerance would pass unseen


def test_the_message_names_everything(unet):
    state = dict(unet[1])
    del state[LEAVES[0]], state[LEAVES[2]]
    state["surplus.weight"] = np.zeros(3)
    state[LEAVES[1]] = np.zeros(99)
    with pytest.raises(UserError) as error:
        convert(unet, state)
    for part in (LEAVES[0], LEAVES[2], "surplus.weight", LEAVES[1], "(99,)"):
        assert part in str(error.value)


def test_every_parameter_has_a_name(unet):
    model, state = unet
    paths = {path for path, _ in nnx.to_flat_state(nnx.state(model))}
    table = torch_tensors(model)
    assert set(table) == paths
    assert len({t.name for t in table.values()}) == len(paths) == len(state)


def test_structures_are_compared_by_path_shape_and_dtype():
    tree = {"a": jnp.zeros((2, 3)), "b": {"c": jnp.zeros(4)}}
    assert_same_structure(tree, tree)
    for other, what in (
        ({"a": jnp.zeros((2, 3))}, "missing ..b....c.."),
        ({**tree, "d": jnp.zeros(1)}, "unexpected ..d.."),
        ({**tree, "a": jnp.zeros((3, 2))}, r"\(3, 2\) float32 instead of \(2, 3\) float32"),
    ):
        with pytest.raises(ValueError, match=what):
            assert_same_structure(other, tree)
    with pytest.raises(ValueError, match="int32"):
        assert_same_structure({**tree, "a": jnp.zeros((2, 3), jnp.int32)}, tree)
