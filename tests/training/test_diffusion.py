"""Pre-training of a UNet: a step against PyTorch, who is degraded, and what comes out."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

from tests.support.parity import max_difference, nchw, noise
from tests.support.quick_compiler import QUICK
from tests.support.small_release import randomise
from tests.training.small_run import SMALL_VAE
from tvt_jax import bundled
from tvt_jax.bundled import TRAIN_PHOTOGRAPHS
from tvt_jax.config import (
    MILD,
    DataConfig,
    DiffusionTrainConfig,
    OptimConfig,
    SchedulerConfig,
    UNetConfig,
    ValidationConfig,
)
from tvt_jax.conversion.replication import replicated_config, replicated_tensors
from tvt_jax.errors import UserError
from tvt_jax.models.networks import abstract_network, init_network
from tvt_jax.training.diffusion import EMBEDS_TOKENS, PREVIEW_TIMESTEP, make_stage, random_embeds
from tvt_jax.training.loop import train
from tvt_jax.weights.model_folder import (
    load_network,
    open_network,
    read_scheduler_config,
    save_network,
)
from tvt_jax.weights.names import params_from_torch, params_to_torch
from tvt_jax.weights.prompt_embeds import load_prompt_embeds, save_prompt_embeds

SMALL_UNET = UNetConfig(
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=12,
    attention_head_dim=(2, 2),
    layers_per_block=1,
    norm_num_groups=4,
)
BATCH, SIDE = 6, 16


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    """A VAE of two levels, by diffusers."""
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    randomise(torch_vae()).save_pretrained(folder)
    return folder


def torch_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.7,
    ).eval()


def diffusion_config(vae_folder, **changes) -> DiffusionTrainConfig:
    values = dict(
        unet=SMALL_UNET,
        vae=str(vae_folder),
        steps=4,
        log_every=1,
        checkpoint_every=2,
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=0),
        data=DataConfig(
            train=str(TRAIN_PHOTOGRAPHS), crop=44, batch_size=4, threads=1, degradation=MILD
        ),
    )
    return DiffusionTrainConfig(**{**values, **changes})


def images(seed=0) -> np.ndarray:
    return np.clip(0.5 * noise(BATCH, SIDE, SIDE, 3, seed=seed), -1, 1)


def draws(key, share, noises):
    """What a step draws from its key: for each image whether it is degraded, and for each of its
    noises the sample of the posterior, the timestep and the noise."""
    degraded, posterior, timesteps, epsilon = jax.random.split(key, 4)
    count = BATCH * noises
    shape = (count, SIDE // 2, SIDE // 2, 4)
    return (
        np.asarray(jax.random.bernoulli(degraded, share, (BATCH,))),
        np.asarray(jax.random.normal(posterior, shape)),
        np.array(jax.random.randint(timesteps, (count,), 0, 1000)),  # torch wants to own it
        np.asarray(jax.random.normal(epsilon, shape)),
    )


def in_pytorch(params, vae_folder, folder):
    """(VAE, UNet with the run's initial weights, noise schedule) by diffusers."""
    table = abstract_network("unet", SMALL_UNET)
    tensors = params_to_torch(table, params["unet"])
    save_network(folder, "unet", SMALL_UNET, tensors, "float32")
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    return (
        AutoencoderKL.from_pretrained(vae_folder),
        UNet2DConditionModel.from_pretrained(folder),
        scheduler,
    )


def test_a_step_equals_pytorch(vae_folder, tmp_path):
    noises = 2
    config = diffusion_config(vae_folder, seed=3, noises=noises)
    stage, params, frozen = make_stage(config)
    vae, unet, scheduler = in_pytorch(params, vae_folder, tmp_path)
    hr, lr, key = images(0), images(1), jax.random.key(5)
    degraded, sample, timesteps, epsilon = draws(key, config.degraded, noises)
    assert 0 < degraded.sum() < BATCH and len(set(timesteps)) > 3

    embeds = random_embeds(3, EMBEDS_TOKENS, 12)
    # One sample after the other, each with all of its noises.
    samples = [i for i in range(BATCH) for _ in range(noises)]
    image = nchw(np.stack([lr[i] if degraded[i] else hr[i] for i in samples]))
    text = np.concatenate(
        [embeds.negative_prompt_embeds if degraded[i] else embeds.prompt_embeds for i in samples]
    )
    with torch.no_grad():
        posterior = vae.encode(image).latent_dist
        latent = 0.7 * (posterior.mean + posterior.std * nchw(sample))
        noisy = scheduler.add_noise(latent, nchw(epsilon), torch.from_numpy(timesteps))
    predicted = unet(noisy, torch.from_numpy(timesteps), torch.from_numpy(text)).sample
    want = torch.nn.functional.mse_loss(predicted, nchw(epsilon))
    want.backward()

    gradients = jax.jit(stage.gradients, compiler_options=QUICK)
    grads, metrics = gradients(params, frozen, {"hr": hr, "lr": lr}, key, 0)
    want = float(want.detach())
    assert abs(float(metrics["loss"]) - want) < 1e-5 * want
    got = params_to_torch(abstract_network("unet", SMALL_UNET), grads["unet"])
    reference = {name: p.grad.numpy() for name, p in unet.named_parameters()}
    assert set(got) == set(reference)
    # Gradients that are zero but for rounding have no relative error of their own.
    floor = 1e-3 * max(np.abs(g).max() for g in reference.values())
    for name, gradient in reference.items():
        scale = max(np.abs(gradient).max(), floor)
        assert max_difference(got[name], gradient) < 1e-4 * scale, name


def test_the_preview_is_one_step_from_the_same_noise(vae_folder, tmp_path):
    """By diffusers' own scheduler: x0 from the noise at `PREVIEW_TIMESTEP`, told "photograph"."""
    stage, params, frozen = make_stage(diffusion_config(vae_folder))
    vae, unet, scheduler = in_pytorch(params, vae_folder, tmp_path)
    epsilon = np.asarray(jax.random.normal(jax.random.key(0), (SIDE // 2, SIDE // 2, 4)))
    epsilon = nchw(np.stack([epsilon] * BATCH))
    text = torch.from_numpy(
        np.repeat(random_embeds(0, EMBEDS_TOKENS, 12).prompt_embeds, BATCH, axis=0)
    )
    t = torch.tensor([PREVIEW_TIMESTEP])
    with torch.no_grad():
        noisy = scheduler.add_noise(0.7 * vae.encode(nchw(images())).latent_dist.mean, epsilon, t)
        step = scheduler.step(unet(noisy, t, text).sample, PREVIEW_TIMESTEP, noisy)
        want = vae.decode(step.pred_original_sample / 0.7).sample
    got = jax.jit(stage.preview)(params, frozen, {"hr": images()})
    assert max_difference(got, np.moveaxis(want.numpy(), 1, -1)) < 1e-4


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_degraded_samples(vae_folder, share):
    """Seen in what the UNet is given: an image of ones is HR, one of minus ones is LR."""
    config = diffusion_config(vae_folder, degraded=share)
    objective = make_stage(config)[0].gradients.__self__
    many = 2000
    batch = {"hr": np.ones((many, 1, 1, 3), np.float32)}
    if share:
        batch["lr"] = -batch["hr"]
    text = {"prompt": np.ones((1, 3, 12), np.float32), "negative": -np.ones((1, 3, 12), np.float32)}
    image, context = objective._draw_images(batch, text, jax.random.key(0))
    low = np.asarray(image[:, 0, 0, 0] < 0)
    assert abs(low.mean() - share) < 0.03
    np.testing.assert_array_equal(np.asarray(context[:, 0, 0] < 0), low)


@pytest.fixture(scope="module")
def finished(vae_folder, tmp_path_factory):
    """(configuration, folder) of a run of two steps."""
    # One level: nothing here takes as long as the compilation of a step.
    unet = dataclasses.replace(
        SMALL_UNET,
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        attention_head_dim=(2,),
    )
    config = diffusion_config(vae_folder, unet=unet, steps=2, ema_decay=0.9)
    folder = tmp_path_factory.mktemp("run")
    train(config, folder, quiet=True)
    return config, folder


def test_the_result_is_read_as_stable_diffusion_is(finished, vae_folder):
    config, folder = finished[0], finished[1] / "model"
    assert {path.name for path in folder.iterdir()} == {
        "unet", "vae", "scheduler", "prompt_embeds.safetensors"
    }  # fmt: skip
    assert read_scheduler_config(folder) == SchedulerConfig()
    schedule = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    assert schedule.config.beta_schedule == "scaled_linear"
    want = random_embeds(config.seed, EMBEDS_TOKENS, 12)
    np.testing.assert_array_equal(load_prompt_embeds(folder).prompt_embeds, want.prompt_embeds)
    assert np.abs(want.prompt_embeds - want.negative_prompt_embeds).max() > 1
    # The VAE is the one that was given, and the UNet another than at the start.
    _, given = open_network(vae_folder, "vae")
    _, copied = open_network(folder / "vae", "vae")
    assert set(given) == set(copied)
    for name in given:
        np.testing.assert_array_equal(given[name], copied[name])
    ours = load_network(folder / "unet", "unet", np.float32, np.float32)
    start = init_network("unet", config.unet, config.seed)
    moved = [
        max_difference(a, b)
        for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(start.params), strict=True)
    ]
    assert min(moved) > 0
    latent, text = noise(1, 8, 8, 4), want.prompt_embeds
    theirs = UNet2DConditionModel.from_pretrained(folder / "unet")
    with torch.no_grad():
        output = theirs(nchw(latent), torch.tensor([7]), torch.from_numpy(text)).sample
    got = jax.jit(lambda params: ours(params)(latent, np.array([7]), text))(ours.params)
    assert max_difference(got, np.moveaxis(output.numpy(), 1, -1)) < 1e-4


def test_a_run_starts_from_a_unet(finished):
    config, folder = finished
    trained = load_network(folder / "model" / "unet", "unet", np.float32, np.float32)
    # Another seed draws other embeddings; those that the UNet knows are beside it.
    for init in (folder / "model", folder / "model" / "unet"):
        other = dataclasses.replace(config, init_unet=str(init), seed=8)
        _, params, frozen = make_stage(other)
        jax.tree.map(np.testing.assert_array_equal, params["unet"], trained.params)
        known = load_prompt_embeds(folder / "model").negative_prompt_embeds
        np.testing.assert_array_equal(frozen["text"]["negative"], known)


def test_embeddings_that_the_unet_cannot_read_are_refused(finished, tmp_path):
    config, folder = finished
    shutil.copytree(folder / "model", tmp_path / "model")
    save_prompt_embeds(tmp_path / "model", random_embeds(0, 4, 10))
    with pytest.raises(UserError, match="embeddings in .* are 10 wide, the UNet reads 12"):
        make_stage(dataclasses.replace(config, init_unet=str(tmp_path / "model")))


def test_a_run_is_the_same_with_its_weights_in_another_place(vae_folder):
    config = diffusion_config(vae_folder)
    elsewhere = dataclasses.replace(config, vae="elsewhere", init_unet="elsewhere")
    assert elsewhere.identity() == config.identity()
    for change in (dict(degraded=0.1), dict(seed=5), dict(noises=2)):
        assert dataclasses.replace(config, **change).identity() != config.identity()


def save_random_vae(folder, **changes):
    config = dataclasses.replace(SMALL_VAE, **changes)
    network = init_network("vae", config, 5)
    tensors = params_to_torch(abstract_network("vae", config), network.params)
    save_network(folder, "vae", config, tensors, "float32")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(vae="nowhere"), "not a vae folder"),
        (dict(init_unet="nowhere"), "not a unet folder"),
        (dict(vae="{wide}"), "has 8 latent channels, the UNet reads 4 and predicts 4"),
        (
            dict(data=DataConfig(crop=17)),
            "data.crop=17` is not a multiple of the VAE's downsampling, 2",
        ),
        (
            dict(validation=ValidationConfig(crop=33)),
            "validation.crop=33` is not a multiple of the VAE's downsampling, 2",
        ),
    ],
)
def test_folders_and_crops_that_do_not_fit_are_named(vae_folder, tmp_path, changes, match):
    save_random_vae(tmp_path, latent_channels=8)
    filled = {k: v.format(wide=tmp_path) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(UserError, match=match):
        make_stage(diffusion_config(vae_folder, **filled))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(degraded=1.5), r"degraded=1.5` is not in \[0, 1\]"),
        (dict(noises=0), "noises=0` must be positive"),
        (dict(vae=""), "needs `config.vae=...` .a VAE, for example of configs/pretrain_vae.py"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, match):
    with pytest.raises(UserError, match=match):
        diffusion_config("vae", **changes).validate()


def test_a_run_without_low_resolution_says_what_to_do(vae_folder, tmp_path):
    config = diffusion_config(vae_folder, degraded=0.5)
    config.data.degradation = None
    with pytest.raises(UserError, match="set data.degradation .*`config.degraded=0`"):
        train(config, tmp_path, quiet=True)
    stage, params, frozen = make_stage(diffusion_config(vae_folder, degraded=0.0))
    arguments = (params, frozen, {"hr": images()}, jax.random.key(0), 0)
    jax.eval_shape(stage.gradients, *arguments)


def test_the_bundled_unet_predicts_noise_and_can_be_replicated():
    config, tensors = open_network(bundled.SMALL_UNET / "unet", "unet")
    embeds = load_prompt_embeds(bundled.SMALL_UNET)
    assert embeds.prompt_embeds.shape[-1] == config.cross_attention_dim
    assert read_scheduler_config(bundled.SMALL_UNET) == SchedulerConfig()
    vae = json.loads((bundled.SMALL_TEACHER / "config.json").read_text())
    assert vae["latent_channels"] == config.in_channels
    replicated = replicated_tensors(config, tensors)
    table = abstract_network("unet", replicated_config(config))
    params_from_torch(table, replicated, "float32", "replicated")
    assert sum(tensors[name].size for name in tensors) <= 1.6e6
