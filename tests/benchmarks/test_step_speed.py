"""The step that is timed is that of a run; its operations are those that PyTorch counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch.utils.flop_counter import FlopCounterMode

from tests.support.lpips_package import reference_lpips
from tests.support.small_release import LORA_WORDS
from tests.support.small_sd import write_small_sd, write_small_vae
from tests.support.torch_restoration import RestorationSettings, TorchRestoration
from tests.training.small_restoration import small_restoration
from tests.training.small_run import SMALL_VAE, small_config
from tvt_jax.benchmarks import stand_ins
from tvt_jax.benchmarks import step_speed as step_speed_module
from tvt_jax.benchmarks.complexity import multiply_adds
from tvt_jax.benchmarks.speed import program_speed
from tvt_jax.benchmarks.stand_ins import stand_in_vae, with_stand_ins
from tvt_jax.benchmarks.step_speed import compile_random_step, useful_flops
from tvt_jax.config import SD21_UNET, RestorationLossConfig, VAELossConfig, read_config
from tvt_jax.errors import UserError
from tvt_jax.models.attention import _PLAIN_SCORES, dot_product_attention
from tvt_jax.training.program import make_stage


def test_a_step_is_timed():
    config = small_config()
    speed = program_speed("a step", 2, compile_random_step, config)
    median, least, most = speed.seconds
    assert 0 < least <= median <= most
    assert (speed.devices, speed.batch_size, speed.device) == (1, config.data.batch_size, "cpu")
    assert 0 < speed.share < 1  # a step is more than its products
    assert speed.needed > 0 and speed.compile_seconds > 0
    batch = 4 * 16 * 16 * 3 * 4
    assert speed.peak > speed.held > batch


def test_a_discriminator_that_joins_later_is_timed(monkeypatch):
    configs = []

    def seen(stage, config, mesh, arguments):
        configs.append(config)
        raise UserError("seen enough")

    monkeypatch.setattr(step_speed_module, "compile_step", seen)
    loss = VAELossConfig(lpips=0.0, gan=0.5)
    config = small_config(loss=loss, data=dataclasses.replace(small_config().data, crop=64))
    with pytest.raises(UserError, match="seen enough"):
        compile_random_step(config)
    assert loss.gan_start > 0 and configs[0].loss.gan_start == 0
    assert configs[0].loss.gan == loss.gan


@pytest.mark.parametrize("vae", [None, "VAE-D5"])
def test_an_ablation_whose_vae_is_not_clear_must_name_it(vae):
    with pytest.raises(UserError, match=f"`vae` {vae} is not one of VAE-D8, .* S4 VAE-D4"):
        stand_in_vae(read_config("configs/stage3.py:S4"), vae)


def test_a_batch_that_does_not_divide_is_a_mistake():
    with pytest.raises(UserError, match="batch_size=4` is not a multiple"):
        compile_random_step(small_config(accumulate=3))


@pytest.mark.slow
def test_operations_of_a_step_are_those_that_pytorch_counts(tmp_path):
    """All networks of stage 3, forward and backward, to 0.1 %.

    What is left over is the text encoder, 0.08 %: PyTorch is given its embeddings.
    """
    torch.manual_seed(0)
    (tmp_path / "sd").mkdir()
    sd = write_small_sd(tmp_path / "sd")
    vae = write_small_vae(tmp_path / "vae")
    config = small_restoration(tmp_path, loss=RestorationLossConfig(lpips=2.0, patch=8))
    config.data.crop, side = 32, 16
    lpips = reference_lpips("vgg16")
    settings = RestorationSettings(full_parts=config.trained, patch=8)
    run = TorchRestoration.from_sd(sd, vae, lpips, settings, LORA_WORDS, config.lora_rank)
    for unet in (run.teacher, run.critic, run.generator):
        unet.set_attn_processor(AttnProcessor())  # of fused attention nothing is counted on a CPU
    rng = np.random.default_rng(0)
    lr, hr = rng.uniform(-1, 1, (2, 2, 32, 32, 3)).astype(np.float32)
    text = rng.standard_normal((2, 77, sd.config.cross_attention_dim), np.float32)
    draws = {
        "posterior": rng.standard_normal((2, side, side, 4), np.float32),
        "vsd_timesteps": rng.integers(250, 750, 8),
        "critic_timesteps": rng.integers(0, 1000, 8),
        "vsd_noise": rng.standard_normal((8, 8, 8, 4), np.float32),
        "critic_noise": rng.standard_normal((8, 8, 8, 4), np.float32),
    }
    with FlopCounterMode(display=False) as counter:
        run.gradients(lr, hr, text, text[:1], draws)
    assert useful_flops(config) == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_gradients_of_strides_and_branches_are_counted():
    """By hand: two convolutions of 3x3, the first with a stride, and a product that is not always
    made. Backward there are the kernels' gradients and the second convolution's input's."""
    first, second = jnp.zeros((3, 3, 4, 8)), jnp.zeros((3, 3, 8, 2))
    matrix = jnp.zeros((2, 5))

    def convolve(x, kernel, stride):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=numbers
        )

    def loss(kernels, image, chosen):
        y = convolve(convolve(image, kernels[0], 2), kernels[1], 1)
        return jax.lax.cond(chosen, lambda: (y @ matrix).sum(), lambda: y.sum())

    image = jnp.zeros((1, 16, 16, 4))
    layers, attention = multiply_adds(jax.grad(loss), (first, second), image, True)
    convolutions = 64 * 9 * 4 * 8, 64 * 9 * 8 * 2
    product = 64 * 2 * 5
    assert attention == 0
    assert layers == 2 * convolutions[0] + 3 * convolutions[1] + 2 * product
    # ... and through a stride, of an input: as many as forward, not four times.
    to_image = jax.grad(lambda x: convolve(x, first, 2).sum())
    assert multiply_adds(to_image, image) == (2 * convolutions[0], 0)


def test_long_attention_is_counted_without_what_blocks_compute_twice():
    """Two products forward, four backward."""
    tokens, heads, width = 1536, 3, 16
    assert tokens**2 > _PLAIN_SCORES
    x = jax.ShapeDtypeStruct((2, tokens, heads, width), jnp.float32)
    program = jax.grad(lambda q, k, v: dot_product_attention(q, k, v).sum(), argnums=(0, 1, 2))
    assert multiply_adds(program, x, x, x) == (0, 6 * 2 * heads * tokens**2 * width)
    # Counting leaves nothing behind: what is compiled afterwards works by blocks.
    assert "stablehlo.while" in jax.jit(program).lower(x, x, x).as_text()


@pytest.mark.parametrize("stage", ["stage1", "pretrain_unet"])
def test_every_kind_of_run_is_counted(stage):
    config = read_config(f"configs/{stage}.py:tiny")
    once = useful_flops(config)
    config.data.batch_size *= 2
    # Twice the images; what does not depend on them counts once.
    assert once < useful_flops(config) <= 2 * once


def test_stand_ins_are_networks_that_a_run_can_load(tmp_path, monkeypatch):
    """A configuration without folders makes a step; the networks are smaller than the paper's."""
    unet = dataclasses.replace(
        SD21_UNET,
        block_out_channels=(32,) * 4,
        attention_head_dim=(2,) * 4,
        layers_per_block=1,
        cross_attention_dim=16,
        norm_num_groups=8,
    )
    monkeypatch.setattr(stand_ins, "SD21_UNET", unet)
    monkeypatch.setitem(stand_ins.VAES, "VAE-D4", SMALL_VAE)
    config = read_config("configs/stage3.py")
    config.data.crop, config.data.batch_size, config.loss.patch, config.loss.lpips = 16, 1, 8, 0.0
    config = with_stand_ins(config, tmp_path, stand_in_vae(config, None))
    weights = jax.tree.leaves(make_stage(config)[2]["sd"])
    assert all(leaf.dtype == jnp.bfloat16 for leaf in weights)
    # Random ones: a device draws less power, and is faster, when it multiplies zeros.
    assert all(np.asarray(leaf, np.float32).std() > 0 for leaf in weights if leaf.ndim > 1)
