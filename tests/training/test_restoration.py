"""Stage 3: losses, gradients and steps against PyTorch; what learns, what is shared, the variants.

The reference, `tests.support.torch_restoration`, is written from the method's description with
diffusers and peft.
"""

import dataclasses

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel
from flax import nnx
from transformers import CLIPTextModel, CLIPTokenizer

from tests.support.lpips_package import reference_lpips
from tests.support.parity import noise
from tests.support.small_release import LORA_WORDS, vae_d4
from tests.support.small_sd import VAE_WIDTHS, write_small_sd, write_small_vae
from tests.support.torch_restoration import (
    RestorationSettings,
    TorchRestoration,
    add_vae_adapters,
    move_adapters,
)
from tests.training.small_restoration import FULL_PARTS, small_restoration
from tvt_jax.config import NEGATIVE_PROMPT, MeshConfig, OptimConfig, RestorationLossConfig
from tvt_jax.parallel import make_mesh
from tvt_jax.training.restoration import make_stage
from tvt_jax.training.state import init_state
from tvt_jax.training.step import make_step

BATCH, SIDE, PATCH, RANK = 2, 32, 8, 4
LEARNING_RATE = 5e-5
# Where a gradient is nothing but rounding errors, Adam makes a full step of their sign; an epsilon
# above them keeps such weights comparable.
EPSILON = 1e-6
TILES = BATCH * (SIDE // 2 // PATCH) ** 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with sd/ and vae/."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("stage3")
    (root / "sd").mkdir()
    write_small_sd(root / "sd")
    write_small_vae(root / "vae")
    return root


def torch_run(folder, settings, vae_rank):
    """The reference on the folder's weights, with adapters that are not zero."""
    lpips = reference_lpips("vgg16")  # draws random numbers at its first call
    torch.manual_seed(1)
    sd = UNet2DConditionModel.from_pretrained(folder / "sd" / "unet")
    vae = vae_d4(VAE_WIDTHS)
    vae.load_state_dict(
        safetensors.torch.load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    )
    add_vae_adapters(vae, vae_rank)
    run = TorchRestoration.from_sd(sd, vae, lpips, settings, LORA_WORDS, RANK)
    for seed, network in enumerate((run.generator, run.critic, run.vae)):
        move_adapters(network, 0.02, seed)
    return run


# Ours -> (the reference's, axes of a kernel in PyTorch, axes of PyTorch's here).
_LEAVES = {"lora_a": "lora_A", "lora_b": "lora_B", "kernel": "weight", "scale": "weight"}


def torch_name(path):
    return f"{'.'.join(map(str, path[:-1]))}.{_LEAVES.get(path[-1], path[-1])}"


def by_name(params):
    """(the generator's, the critic's) arrays with the reference's names and layouts."""

    def convert(tree, prefix=""):
        out = {}
        for path, value in nnx.to_flat_state(tree):
            axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(value.ndim, (0,))
            out[prefix + torch_name(path)] = np.asarray(value).transpose(axes)
        return out

    generator = params["generator"]
    return (
        convert(generator["unet"], "unet.") | convert(generator["vae"], "vae."),
        convert(params["critic"]),
    )


def take_over(tree, values, prefix=""):
    """The same tree with the reference's values."""
    flat = {}
    for path, old in nnx.to_flat_state(tree):
        value = values[prefix + torch_name(path)]
        flat[path] = value.transpose({2: (1, 0), 4: (2, 3, 1, 0)}.get(value.ndim, (0,)))
        assert flat[path].shape == old.shape, path
    return nnx.as_pure(nnx.from_flat_state(flat))


def prepared(folder, config):
    """(stage, reference) with the same weights."""
    settings = RestorationSettings(
        full_parts=config.trained, patch=PATCH, epsilon=EPSILON, learning_rate=LEARNING_RATE
    )
    run = torch_run(folder, settings, config.vae_lora_rank)
    stage = make_stage(config)
    values = run.parameters()
    generator = stage.params["generator"]
    for part in ("unet", "vae"):
        generator[part] = take_over(generator[part], values[0], f"{part}.")
    stage.params["critic"] = take_over(stage.params["critic"], values[1])
    return stage, run


def batch_of(number):
    hr = np.clip(0.5 * noise(BATCH, SIDE, SIDE, 3, seed=10 + number), -1, 1)
    lr = np.clip(hr + 0.2 * noise(BATCH, SIDE, SIDE, 3, seed=20 + number), -1, 1)
    tokens = np.random.default_rng(number).integers(0, 512, (BATCH, 77), dtype=np.int32)
    return {"hr": hr, "lr": lr, "tokens": tokens}


def draws_of(key, low=250, high=750):
    """The random inputs that a step takes from its key."""
    posterior, vsd, critic = jax.random.split(key, 3)
    out = {"posterior": jax.random.normal(posterior, (BATCH, SIDE // 2, SIDE // 2, 4))}
    for name, one, bounds in (("vsd", vsd, (low, high)), ("critic", critic, (0, 1000))):
        time_key, noise_key = jax.random.split(one)
        out[f"{name}_timesteps"] = jax.random.randint(time_key, (TILES,), *bounds)
        out[f"{name}_noise"] = jax.random.normal(noise_key, (TILES, PATCH, PATCH, 4))
    return {name: np.asarray(value) for name, value in out.items()}


def embeddings(folder, tokens):
    """(prompts, negative prompt) by transformers."""
    encoder = CLIPTextModel.from_pretrained(folder / "sd" / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "sd" / "tokenizer")
    negative = tokenizer(
        NEGATIVE_PROMPT, max_length=77, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        return tuple(
            encoder(ids)[0].numpy() for ids in (torch.from_numpy(tokens).long(), negative)
        )


def test_losses_gradients_and_steps_equal_pytorch(folder):
    """With everything on: full parts, adapters of UNet, VAE encoder and critic, all losses.

    Losses to 1e-5, gradients to 1e-4 of the largest entry of each array, and parameters to 1e-5
    after three steps of AdamW at the release's rate: what float32 leaves of two implementations.
    """
    adam = OptimConfig(LEARNING_RATE, warmup_steps=0, weight_decay=1e-2, clip_norm=1.0)
    adam.epsilon = EPSILON
    config = small_restoration(
        folder,
        loss=RestorationLossConfig(patch=PATCH, patches_at_once=2),
        vae_lora_rank=2,
        optim=adam,
        critic_optim=dataclasses.replace(adam),
    )
    stage, reference = prepared(folder, config)

    def with_gradients(*arguments):
        grads, metrics = stage.gradients(*arguments)
        return grads, {**metrics, "gradients": grads}

    probed = dataclasses.replace(stage, gradients=with_gradients)
    step = jax.jit(make_step(probed, config, make_mesh(MeshConfig())))
    state, key = init_state(stage, config), jax.random.key(0)
    before = jax.tree.map(np.array, stage.frozen)
    for number in range(3):
        batch = batch_of(number)
        texts = embeddings(folder, batch["tokens"])
        draws = draws_of(jax.random.fold_in(key, number))
        arguments = (batch["lr"], batch["hr"], *texts, draws)
        want = reference.gradients(*arguments)
        reference.step(*arguments)
        state, got = step(state, stage.frozen, batch, key)
        for name, value in want[0].items():
            assert abs(float(got[name]) - value) < 1e-5 * max(1.0, abs(value)), (number, name)
        if number == 0:  # later ones differ by what the parameters differ by then
            for mine, theirs in zip(by_name(got["gradients"]), want[1:], strict=True):
                assert set(mine) == set(theirs)
                for name, value in theirs.items():
                    largest = np.abs(value).max()
                    assert largest > 1e-7, name
                    assert np.abs(mine[name] - value).max() < 1e-4 * largest, name
    for mine, theirs in zip(by_name(state.params), reference.parameters(), strict=True):
        assert set(mine) == set(theirs)
        for name, value in theirs.items():
            assert np.abs(mine[name] - value).max() < 1e-5, name
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(stage.frozen), strict=True):
        np.testing.assert_array_equal(a, b)
