"""VAE training: whole steps against PyTorch, what learns and what stays, and the ablations."""

import copy
import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from flax import nnx
from PIL import Image

from tests.support.lpips_package import reference_lpips
from tests.support.parity import max_difference, nchw, noise
from tests.support.quick_compiler import QUICK
from tests.support.small_release import randomise, vae_d4
from tests.support.torch_discriminator import nlayer_discriminator, parameters_of
from tests.training.small_run import SMALL_VAE, read_weights, small_config
from tvt_jax.config import (
    DiscriminatorConfig,
    MeshConfig,
    OptimConfig,
    VAEConfig,
    VAELossConfig,
)
from tvt_jax.errors import UserError
from tvt_jax.models.discriminator import LeakyReLU, NLayerDiscriminator
from tvt_jax.models.layers import InitKeys
from tvt_jax.models.lpips import MaxPool2d, ReLU
from tvt_jax.models.networks import abstract_network, init_network
from tvt_jax.parallel import make_mesh
from tvt_jax.training.loop import train
from tvt_jax.training.step import init_state, make_step
from tvt_jax.training.vae import _teacher_encoder, make_stage
from tvt_jax.weights.model_folder import save_network
from tvt_jax.weights.names import params_from_torch, params_to_torch
from tvt_jax.weights.tensor_files import torch_tensors_as_numpy

# Two channels in a norm group: with one, the bias before a norm has no gradient but rounding
# errors, which Adam blows up to full steps.
WIDTHS = (64, 64)
EVERYTHING = ("encoder", "quant_conv", "post_quant_conv", "decoder")
# Where a gradient is nothing but rounding errors, Adam makes a full step of their sign; an epsilon
# above them keeps such weights comparable.
EPSILON = 1e-5
# Each run of the paper, small: what trains, whose latents, which terms.
CASES = {
    "stage 1": dict(
        latents="teacher",
        trained=("decoder", "post_quant_conv"),
        loss=VAELossConfig(lpips=1.0, gan=0.5, gan_start=1),
    ),
    "stage 2": dict(trained=("encoder", "quant_conv"), loss=VAELossConfig(lpips=1.0)),
    "pre-training": dict(
        trained=EVERYTHING, loss=VAELossConfig(lpips=0.0, kl=1e-2, gan=0.5, gan_start=0)
    ),
    "T2": dict(trained=EVERYTHING, loss=VAELossConfig(lpips=0.0, latent=0.3)),
}
STEPS, SIDE, BATCH = 3, 32, 2


def torch_teacher():
    return randomise(
        AutoencoderKL(
            block_out_channels=(32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
        ).eval()
    ).requires_grad_(False)


def enlarged(image):
    """Twice the size by Pillow's bicubic filter, [B, H, W, 3] float32."""

    def one(plane):
        return Image.fromarray(plane).resize(
            (2 * plane.shape[1], 2 * plane.shape[0]), Image.Resampling.BICUBIC
        )

    return np.stack(
        [np.stack([np.asarray(one(im[..., c].copy())) for c in range(3)], -1) for im in image]
    )


@dataclasses.dataclass
class TorchRun:
    """The step by latent diffusion's formulas: sums over pixels, autograd at the last layer."""

    settings: object
    vae: AutoencoderKL
    teacher: AutoencoderKL
    judge: torch.nn.Module

    def __post_init__(self):
        if self.settings.loss.lpips:
            self.lpips = without_kinks(reference_lpips("vgg16"))
        learning = self.settings.trained
        for name, parameter in self.vae.named_parameters():
            parameter.requires_grad_(name.startswith(learning))
        options = dict(lr=1e-4, betas=(0.5, 0.9), eps=EPSILON, weight_decay=0.0)
        self.optimizers = [
            torch.optim.AdamW([p for p in self.vae.parameters() if p.requires_grad], **options),
            torch.optim.AdamW(self.judge.parameters(), **options),
        ]

    def step(self, image, draws, number):
        """One step; returns the metrics that the step here reports."""
        loss, pixels, parts = self.settings.loss, nchw(image), {}
        elements = pixels[0].numel()
        with torch.no_grad():
            wanted = self.teacher.encode(nchw(enlarged(image))).latent_dist
        own = self.settings.latents == "own"
        posterior = self.vae.encode(pixels).latent_dist if own else wanted
        output = self.vae.decode(posterior.mean + posterior.std * nchw(draws)).sample
        rec = (pixels - output).abs()
        parts["l1"] = rec.mean()
        if loss.lpips:
            distance = self.lpips(output, pixels)  # [B, 1, 1, 1]
            parts["lpips"] = distance.mean()
            rec = rec + loss.lpips * distance
        total = nll = rec.sum() / len(image)
        if loss.kl:
            parts["kl"] = posterior.kl().mean()
            total = total + loss.kl * parts["kl"]
        if loss.latent:
            parts["latent"] = torch.nn.functional.mse_loss(posterior.mean, wanted.mean)
            total = total + elements * loss.latent * parts["latent"]
        # Before it joins, the discriminator's optimizer steps with gradients of zero, as there.
        joined = loss.gan and number >= loss.gan_start
        if joined:
            generator = -self.judge(output).mean()
            last = self.vae.decoder.conv_out.weight
            norms = [
                torch.autograd.grad(term, last, retain_graph=True)[0].norm()
                for term in (nll, generator)
            ]
            weight = loss.gan * (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
            parts |= {"generator": generator, "gan_weight": weight / elements}
            total = total + weight * generator
        total = total / elements
        parts["loss"] = total
        self.optimizers[0].zero_grad()
        total.backward()
        norm = [p.grad.norm() for p in self.vae.parameters() if p.grad is not None]
        parts["grad_norm/vae"] = torch.stack(norm).norm()
        if loss.gan:
            real, fake = self.judge(pixels), self.judge(output.detach())
            hinge = torch.nn.functional.relu
            told = float(joined) * 0.5 * (hinge(1 - real).mean() + hinge(1 + fake).mean())
            parts["discriminator"] = told
            self.optimizers[1].zero_grad()
            told.backward()
            self.optimizers[1].step()
        self.optimizers[0].step()
        return {name: float(value.detach()) for name, value in parts.items()}


class Smooth(torch.nn.Module):
    """Close to ReLU, or LeakyReLU of a slope, without the kink."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return self.slope * x + (1 - self.slope) * torch.nn.functional.softplus(x)


def smooth(slope):
    """`Smooth`, for a module here."""
    return lambda _, x: slope * x + (1 - slope) * jax.nn.softplus(x)


def averaged(pool, x):
    """In the place of `MaxPool2d`, for a module here."""
    return nnx.avg_pool(x, (pool.window, pool.window), strides=(2, 2))


def without_kinks(network):
    """A copy in PyTorch whose gradient no rounding turns: no ReLU, no LeakyReLU, no maxima."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, torch.nn.ReLU | torch.nn.LeakyReLU):
                setattr(module, name, Smooth(getattr(layer, "negative_slope", 0)))
            elif isinstance(layer, torch.nn.MaxPool2d):
                setattr(module, name, torch.nn.AvgPool2d(layer.kernel_size, layer.stride))
    return network


def as_params(kind, settings, reference):
    tensors = torch_tensors_as_numpy(parameters_of(reference), kind)
    return params_from_torch(abstract_network(kind, settings), tensors, "float32", kind)


# Stage 1 and pre-training have all terms of the loss but T2's.
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if case in ("stage 2", "T2") else ())
        for case in CASES
    ],
)
def test_whole_steps_equal_pytorch(case, tmp_path, monkeypatch):
    torch.manual_seed(0)
    vae, teacher = vae_d4(WIDTHS), torch_teacher()
    judge = without_kinks(nlayer_discriminator(base=8, num_layers=2).train())
    monkeypatch.setattr(LeakyReLU, "__call__", smooth(0.2))
    monkeypatch.setattr(ReLU, "__call__", smooth(0))
    monkeypatch.setattr(MaxPool2d, "__call__", averaged)
    vae.save_pretrained(tmp_path / "vae")
    config = VAEConfig(block_out_channels=WIDTHS, mid_block=False)
    (tmp_path / "vae" / "config.json").write_text(json.dumps(config.to_json()))
    teacher.save_pretrained(tmp_path / "teacher")
    adam = OptimConfig(1e-4, warmup_steps=0, beta1=0.5, beta2=0.9, epsilon=EPSILON)
    settings = small_config(
        vae=config,
        init_vae=str(tmp_path / "vae"),
        teacher=str(tmp_path / "teacher"),
        discriminator=DiscriminatorConfig(base_channels=8, num_layers=2),
        optim=adam,
        discriminator_optim=adam,
        **CASES[case],
    )
    stage, params, frozen = make_stage(settings)
    if settings.loss.gan:
        params["discriminator"] = as_params("discriminator", settings.discriminator, judge)
    reference = TorchRun(settings, vae, teacher, judge)
    step = jax.jit(make_step(stage, settings, make_mesh(MeshConfig())), compiler_options=QUICK)
    state, key = init_state(stage, params, settings), jax.random.key(0)
    for number in range(STEPS):
        image = np.clip(0.5 * noise(BATCH, SIDE, SIDE, 3, seed=10 + number), -1, 1)
        draws = jax.random.normal(jax.random.fold_in(key, number), (BATCH, SIDE // 2, SIDE // 2, 4))
        want = reference.step(image, np.asarray(draws), number)
        state, got = step(state, frozen, {"hr": image}, key)
        for name, value in want.items():
            assert abs(float(got[name]) - value) < 1e-5 * max(1.0, abs(value)), (number, name)
    stage.export(state.params, frozen, tmp_path / "result")
    ours, theirs = read_weights_of(tmp_path / "result"), vae.state_dict()
    assert set(ours) == {name for name in theirs if "mid_block" not in name}
    for name, array in ours.items():
        assert max_difference(array, theirs[name].numpy()) < 1e-5, name
    if settings.loss.gan:
        module = NLayerDiscriminator(settings.discriminator, rngs=InitKeys(None))
        for name, array in params_to_torch(module, state.params["discriminator"]).items():
            assert max_difference(array, judge.state_dict()[name].numpy()) < 1e-5, name


def read_weights_of(folder):
    import safetensors.numpy

    return safetensors.numpy.load_file(folder / "diffusion_pytorch_model.safetensors")


def test_only_the_encoder_learns_in_stage_2(tmp_path):
    settings = small_config()
    stage, _, _ = make_stage(settings)
    assert all(name.startswith(("encoder.", "quant_conv.")) for name in stage.trained["vae"])
    train(settings, tmp_path, quiet=True)
    before = params_to_torch(
        abstract_network("vae", settings.vae), init_network("vae", settings.vae, 0).params
    )
    after = read_weights(tmp_path)
    assert set(before) == set(after)
    for name, array in after.items():
        if name.startswith(("decoder.", "post_quant_conv.")):
            np.testing.assert_array_equal(array, before[name])
        else:
            assert np.abs(array - before[name]).max() > 0, name


def test_images_may_come_as_uint8(tmp_path):
    """A quarter of the bytes to the device, and gradients that are equal to the bit."""
    stage, params, frozen = make_stage(small_config())
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    as_float = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    gradients = jax.jit(stage.gradients)
    outputs = [
        gradients(params, frozen, {"hr": image}, jax.random.key(0), 0)
        for image in (pixels, as_float)
    ]
    jax.tree.map(np.testing.assert_array_equal, *outputs)
    previews = [jax.jit(stage.preview)(params, frozen, {"hr": x}) for x in (pixels, as_float)]
    np.testing.assert_array_equal(*previews)


def test_the_trained_vae_is_a_diffusers_folder(tmp_path):
    train(small_config(), tmp_path, quiet=True)
    saved = json.loads((tmp_path / "model" / "vae" / "config.json").read_text())
    assert saved["_class_name"] == "AutoencoderKL" and saved["mid_block"] is False
    vae = AutoencoderKL.from_config({**saved, "mid_block_add_attention": False})
    names = {n for n in vae.state_dict() if "mid_block" not in n}
    assert names == set(read_weights(tmp_path))


def save_random(folder, config):
    network = init_network("vae", config, 5)
    tensors = params_to_torch(abstract_network("vae", config), network.params)
    save_network(folder, "vae", config, tensors, "float32")


def test_a_teacher_with_fewer_channels_has_them_interpolated(tmp_path):
    """Ablation S3: each of eight channels lies between two of the teacher's four."""
    save_random(tmp_path, SMALL_VAE)
    wide = dataclasses.replace(SMALL_VAE, latent_channels=8)
    settings = small_config(
        vae=wide, latents="teacher", teacher=str(tmp_path), trained=("decoder", "post_quant_conv")
    )
    stage, params, frozen = make_stage(settings)
    image = np.clip(noise(1, 16, 16, 3), -1, 1)
    teacher = init_network("vae", SMALL_VAE, 5)
    mean = np.asarray(teacher(teacher.params).encode(image)[0])
    encode, weights = _teacher_encoder(teacher, settings)
    got = np.asarray(encode(weights, image)[0])
    # Centres of eight channels on the axis of four: -0.25, 0.25, 0.75 ... 3.25.
    positions = (np.arange(8) + 0.5) / 2 - 0.5
    want = np.apply_along_axis(lambda z: np.interp(positions, np.arange(4), z), -1, mean)
    assert max_difference(got, want) < 1e-5
    output = stage.preview(params, frozen, {"hr": image})
    assert output.shape == image.shape


def test_skip_connections_start_from_a_decoder_without_them(tmp_path):
    """Ablation S2: at the first step the decoder does what it did, and its skips then learn."""
    save_random(tmp_path, SMALL_VAE)
    settings = small_config(
        vae=dataclasses.replace(SMALL_VAE, skip_connections=True),
        init_vae=str(tmp_path),
        fresh=("decoder.skip_convs",),
        trained=("decoder", "post_quant_conv"),
    )
    stage, params, frozen = make_stage(settings)
    image = np.clip(noise(1, 16, 16, 3), -1, 1)
    plain = init_network("vae", SMALL_VAE, 5)
    module = plain(plain.params)
    want = module.decode(module.encode(image)[0])
    got = stage.preview(params, frozen, {"hr": image})
    assert max_difference(got, want) < 1e-6
    train(settings, tmp_path / "run", quiet=True)
    after = read_weights(tmp_path / "run")
    assert np.abs(after["decoder.skip_convs.0.weight"]).max() > 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(init_vae="{vae}", vae=dataclasses.replace(SMALL_VAE, norm_num_groups=2)),
         "another architecture: norm_num_groups 4 instead of 2"),
        (dict(init_vae="nowhere"), "not a vae folder"),
        (dict(teacher="nowhere", latents="teacher"), "not a vae folder"),
        (dict(teacher="{vae}", latents="teacher", vae=VAEConfig((8, 8, 8), norm_num_groups=4)),
         "must compress a whole multiple"),
    ],
)  # fmt: skip
def test_folders_that_do_not_fit_are_named(tmp_path, changes, match):
    save_random(tmp_path, SMALL_VAE)
    filled = {k: v.format(vae=tmp_path) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(UserError, match=match):
        make_stage(small_config(**filled))


def test_missing_lpips_weights_are_named_with_the_command(tmp_path):
    settings = small_config(loss=VAELossConfig(lpips=1.0), lpips=str(tmp_path / "none"))
    with pytest.raises(UserError, match="convert lpips"):
        make_stage(settings)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(latents="teacher"), "needs `config.teacher=...`"),
        (dict(loss=VAELossConfig(latent=1.0)), "needs `config.teacher=...`"),
        (dict(init_vae=""), "needs `config.init_vae=...` .the VAE whose decoder"),
        (dict(init_vae="", trained=("decoder",)), "needs `config.init_vae=...` .the VAE to start"),
        (dict(latents="teacher", teacher="x", loss=VAELossConfig(kl=1.0)), "latents=own"),
        (dict(latents="yours"), "is not own or teacher"),
        (dict(trained=()), "nothing would learn"),
        (dict(ema_decay=1.0), "ema_decay"),
        (dict(dtype="float16"), "float16` is not float32 or bfloat16"),
        (dict(optim=OptimConfig(schedule="linear")), "linear` is not constant or cosine"),
        (dict(optim=OptimConfig(warmup_steps=-5)), "warmup_steps=-5` must not be negative"),
        (dict(loss=VAELossConfig(gan=1.0)), "data.crop=16` is too small for the discriminator"),
        (dict(loss=VAELossConfig(lpips=-1.0)), "lpips must not be negative"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, match):
    with pytest.raises(UserError, match=match):
        small_config(**{"init_vae": "vae", **changes}).validate()
