"""Adapters against peft on a diffusers UNet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.support.parity import max_difference, nchw, nhwc, noise
from tests.support.small_release import ce_unet, train_unet
from tvt_jax.config import LoRAConfig, UNetConfig
from tvt_jax.models.layers import InitKeys
from tvt_jax.models.lora import add_lora, lora_targets
from tvt_jax.weights.model_folder import load_network

CONTEXT = 48


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """(PyTorch UNet with the release's three adapters, ours with the same base and adapters)."""
    torch.manual_seed(0)
    reference = ce_unet()
    content = train_unet(reference, rank=4)
    state = reference.state_dict()
    folder = tmp_path_factory.mktemp("unet")
    base = ce_unet()
    base.load_state_dict(
        {k.replace(".base_layer", ""): v for k, v in state.items() if "lora" not in k}
    )
    base.save_pretrained(folder)
    network = load_network(folder, "unet", jnp.float32, jnp.float32)
    model = network(network.params)
    names = add_lora(model, LoRAConfig(rank=4), InitKeys(0))
    for path, layer in nnx.iter_modules(model):
        name = ".".join(map(str, path))
        if name not in names:
            continue
        a, b = (
            next(v for k, v in state.items() if k.startswith(f"{name}.lora_{side}.")).numpy()
            for side in "AB"
        )
        axes = (2, 3, 1, 0) if a.ndim == 4 else (1, 0)
        layer.lora_a[...] = jnp.asarray(a.transpose(axes))
        layer.lora_b[...] = jnp.asarray(b.transpose(axes))
    listed = sum((content[f"unet_lora_{p}_modules"] for p in ("encoder", "decoder", "others")), [])
    return reference, model, names, listed


LATENT, TEXT = noise(1, 16, 16, 4), noise(1, 7, CONTEXT, seed=1)


@functools.partial(jax.jit, static_argnums=0)
def call(graph, params):
    return nnx.merge(graph, params)(LATENT, jnp.array([1]), TEXT)


def run(model):
    graph, params = nnx.split(model)
    return np.asarray(call(graph, nnx.as_pure(params)))


def test_the_release_and_we_adapt_the_same_layers(adapted):
    _, _, names, listed = adapted
    assert sorted(names) == sorted(listed)


def test_output_equals_peft(adapted):
    reference, model, _, _ = adapted
    with torch.no_grad():
        want = reference(nchw(LATENT), torch.tensor([1]), torch.from_numpy(TEXT)).sample
    assert max_difference(run(model), nhwc(want)) < 1e-4


def test_fresh_adapters_are_the_identity_and_count_as_lora():
    config = UNetConfig(
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=CONTEXT,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    from tvt_jax.models.networks import init_network

    network = init_network("unet", config, 0)
    model = network(network.params)
    before = run(model)
    names = add_lora(model, LoRAConfig(rank=2), InitKeys(1))
    assert max_difference(run(model), before) == 0.0
    adapters = nnx.to_flat_state(nnx.state(model, nnx.LoRAParam))
    assert len(adapters) == 2 * len(names) == 2 * len(lora_targets(model, LoRAConfig()))
    assert not any("norm" in name or "time_emb" in name for name in names)
    deviation = np.std(np.concatenate([np.ravel(v[...]) for p, v in adapters if p[-1] == "lora_a"]))
    assert abs(deviation - 0.5) < 0.02  # 1 / rank
