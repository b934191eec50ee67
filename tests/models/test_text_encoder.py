"""The text encoder against transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from tests.support.parity import NETWORK_TOLERANCE, max_difference
from tests.support.small_release import randomise
from tvt_jax.weights.model_folder import load_network, open_network, save_network


@pytest.fixture(scope="module", params=["gelu", "quick_gelu"])
def saved(request, tmp_path_factory):
    torch.manual_seed(0)
    reference = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
            hidden_act=request.param, vocab_size=99, bos_token_id=97, eos_token_id=98,
            pad_token_id=0,
        )
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("text")
    randomise(reference.eval()).save_pretrained(folder)
    return reference, folder


TOKENS = np.random.default_rng(0).integers(0, 97, (2, 77))


def test_whole_network(saved):
    reference, folder = saved
    network = load_network(folder, "text_encoder", jnp.float32, jnp.float32)
    got = jax.jit(lambda p, t: network(p)(t))(network.params, TOKENS)
    with torch.no_grad():
        want = reference(torch.from_numpy(TOKENS)).last_hidden_state.numpy()
    assert max_difference(got, want) < NETWORK_TOLERANCE


def test_later_tokens_do_not_change_earlier_ones(saved):
    _, folder = saved
    network = load_network(folder, "text_encoder", jnp.float32, jnp.float32)
    encode = jax.jit(lambda p, t: network(p)(t))
    changed = TOKENS.copy()
    changed[:, 40:] = 5
    a, b = encode(network.params, TOKENS), encode(network.params, changed)
    assert max_difference(a[:, :40], b[:, :40]) == 0.0
    assert max_difference(a[:, 40:], b[:, 40:]) > 0.01


def test_what_we_write_transformers_reads(saved, tmp_path):
    reference, folder = saved
    config, tensors = open_network(folder, "text_encoder")
    save_network(tmp_path, "text_encoder", config, tensors, "float32")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 2 and len(modes) == 1  # all as readable as each other
    again = CLIPTextModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        tokens = torch.from_numpy(TOKENS)
        a, b = reference(tokens).last_hidden_state, again(tokens).last_hidden_state
    assert max_difference(a, b) == 0.0
