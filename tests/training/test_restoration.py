"""Stage 3: losses, gradients and steps against PyTorch; what learns, what is shared, the variants.

The reference, `tests.support.torch_restoration`, is written from the method's description with
diffusers and peft.
"""

import dataclasses
import gc
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel
from flax import nnx
from transformers import CLIPTextModel, CLIPTokenizer

from tests.conversion.test_to_pytorch import assert_same_models, out_and_back
from tests.models.test_lpips import TINY
from tests.support.lpips_package import reference_lpips
from tests.support.parity import noise
from tests.support.quick_compiler import QUICK
from tests.support.small_release import LORA_WORDS, vae_d4
from tests.support.small_sd import VAE_WIDTHS, write_small_sd, write_small_vae
from tests.support.torch_restoration import (
    RestorationSettings,
    TorchRestoration,
    add_vae_adapters,
    move_adapters,
    replicated,
)
from tests.training.small_restoration import small_restoration
from tests.training.small_run import read_metrics
from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS
from tvt_jax.checkpoint import abstract_like
from tvt_jax.config import (
    LPIPS_NETS,
    NEGATIVE_PROMPT,
    DataConfig,
    MeshConfig,
    OptimConfig,
    RestorationLossConfig,
    VAEConfig,
    ValidationConfig,
    read_config,
)
from tvt_jax.data.samples import Collate, heldout_samples
from tvt_jax.errors import UserError
from tvt_jax.inference.upscaler import Upscaler
from tvt_jax.models.networks import init_network
from tvt_jax.models.target import compiling_for
from tvt_jax.parallel import make_mesh
from tvt_jax.training import loop
from tvt_jax.training.loop import train
from tvt_jax.training.restoration import make_stage
from tvt_jax.training.step import init_state, make_step
from tvt_jax.weights.adapters import ADAPTER_FILE
from tvt_jax.weights.model_folder import open_network, save_network
from tvt_jax.weights.names import params_to_torch

ROOT = Path(__file__).parent.parent.parent
BATCH, SIDE, PATCH, RANK = 2, 32, 8, 4
LEARNING_RATE = 5e-5
# Where a gradient is nothing but rounding errors, Adam makes a full step of their sign; an epsilon
# above them keeps such weights comparable.
EPSILON = 1e-6
TILES = BATCH * (SIDE // 2 // PATCH) ** 2
ALL_ADAPTERS = ("encoder", "decoder", "others")


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
    """(stage, its parameters, its frozen parameters, reference) with the same weights."""
    settings = RestorationSettings(
        full_parts=config.trained,
        patch=PATCH,
        epsilon=EPSILON,
        learning_rate=LEARNING_RATE,
        lpips_weight=0.1,
        critic_adapters=("others",) if config.critic_lora_parts else ALL_ADAPTERS,
    )
    run = torch_run(folder, settings, config.vae_lora_rank)
    stage, params, frozen = make_stage(config)
    values = run.parameters()
    generator = params["generator"]
    for part in ("unet", "vae"):
        generator[part] = take_over(generator[part], values[0], f"{part}.")
    params["critic"] = take_over(params["critic"], values[1])
    return stage, params, frozen, run


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
        return tuple(encoder(ids)[0].numpy() for ids in (torch.from_numpy(tokens).long(), negative))


@pytest.mark.parametrize(
    "critic_parts",
    [("mid_block", "conv_out"), pytest.param((), marks=pytest.mark.slow)],
    ids=["the release's critic", "the whole critic"],
)
def test_losses_gradients_and_steps_equal_pytorch(folder, critic_parts):
    """With everything on: full parts, adapters of UNet, VAE encoder and critic, all losses.

    Losses to 1e-5, gradients to 1e-4 of the largest entry of each array, and parameters to 1e-5
    after three steps of AdamW at the release's rate: what float32 leaves of two implementations.
    LPIPS has little weight here: where a ReLU of its network is about to switch, rounding decides,
    and PyTorch's own float32 gradient is 7e-4 off its float64 one. `tests/models/test_lpips.py`
    compares its gradients.
    """
    adam = OptimConfig(LEARNING_RATE, warmup_steps=0, weight_decay=1e-2, clip_norm=1.0)
    adam.epsilon = EPSILON
    config = small_restoration(
        folder,
        loss=RestorationLossConfig(patch=PATCH, lpips=0.1, patches_at_once=2),
        vae_lora_rank=2,
        critic_lora_parts=critic_parts,
        optim=adam,
        critic_optim=dataclasses.replace(adam),
    )
    stage, params, frozen, reference = prepared(folder, config)

    def with_gradients(*arguments):
        grads, metrics = stage.gradients(*arguments)
        return grads, {**metrics, "gradients": grads}

    probed = dataclasses.replace(stage, gradients=with_gradients)
    step = jax.jit(make_step(probed, config, make_mesh(MeshConfig())), compiler_options=QUICK)
    state, key = init_state(stage, params, config), jax.random.key(0)
    before = jax.tree.map(np.array, frozen)
    for number in range(3):
        batch = batch_of(number)
        texts = embeddings(folder, batch["tokens"])
        draws = draws_of(jax.random.fold_in(key, number))
        arguments = (batch["lr"], batch["hr"], *texts, draws)
        want = reference.gradients(*arguments)
        reference.step(*arguments)
        state, got = step(state, frozen, batch, key)
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
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(frozen), strict=True):
        np.testing.assert_array_equal(a, b)


# --------------------------------------------------------------------------------------------------
# One base
# --------------------------------------------------------------------------------------------------


def test_teacher_critic_and_generator_read_the_same_weights(folder):
    _, _, frozen = make_stage(small_restoration(folder))
    assert not jax.tree.leaves(frozen["unet"])  # nothing of its own
    held = sum(leaf.size for leaf in jax.tree.leaves(frozen["sd"]))
    unet = UNet2DConditionModel.from_pretrained(folder / "sd" / "unet")
    assert held == sum(p.numel() for p in unet.parameters())


def test_weights_are_on_the_devices_once(folder, tmp_path, monkeypatch):
    """Before the step is compiled, nothing but its arguments and a few scalars is in memory."""
    excess, there = [], jax.live_arrays()

    def measured(*arguments):
        gc.collect()
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(arguments[3]))
        before_test = sum(a.nbytes for a in there)
        excess.append(sum(a.nbytes for a in jax.live_arrays()) - held - before_test)
        raise UserError("seen enough")

    monkeypatch.setattr(loop, "compile_step", measured)
    with pytest.raises(UserError, match="seen enough"):
        train(small_restoration(folder), tmp_path, quiet=True)
    assert excess[0] < 2**16


def test_a_generator_of_its_own_keeps_only_what_differs(folder, tmp_path):
    """A release whose inner blocks are not Stable Diffusion's."""
    torch.manual_seed(2)
    unet = replicated(UNet2DConditionModel.from_pretrained(folder / "sd" / "unet"))
    with torch.no_grad():
        unet.mid_block.resnets[0].conv1.weight.add_(0.1)
    unet.save_pretrained(tmp_path / "unet")
    _, _, frozen = make_stage(small_restoration(folder, unet=str(tmp_path)))
    ((path, own),) = nnx.to_flat_state(frozen["unet"])
    assert path == ("mid_block", "resnets", 0, "conv1", "kernel")
    want = unet.mid_block.resnets[0].conv1.weight.detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(own, want)


# --------------------------------------------------------------------------------------------------
# Variants, traced and not run
# --------------------------------------------------------------------------------------------------


def batch_and_key():
    """Shapes of a batch, and of a key."""
    image = jax.ShapeDtypeStruct((2, 48, 48, 3), "float32")
    batch = {"hr": image, "lr": image, "tokens": jax.ShapeDtypeStruct((2, 77), "int32")}
    return batch, jax.eval_shape(lambda: jax.random.key(0))


def traced(config):
    """(stage, parameters, frozen parameters; gradients and metrics as shapes)."""
    stage, params, frozen = make_stage(config)
    batch, key = batch_and_key()
    grads, metrics = jax.eval_shape(stage.gradients, params, frozen, batch, key, 0)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
    preview = jax.eval_shape(stage.preview, params, frozen, batch)
    assert (preview.shape, preview.dtype) == ((2, 48, 48, 3), "float32")
    return stage, params, frozen, grads, metrics


def write_vae(folder, **changes):
    config = VAEConfig(block_out_channels=VAE_WIDTHS, mid_block=False, **changes)
    network = init_network("vae", config, 0)
    tensors = params_to_torch(network(network.params), network.params)
    save_network(folder, "vae", config, tensors, "float32")
    return str(folder)


@pytest.mark.parametrize(
    "variant",
    ["S1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("S2", "S4")), "S3", "S5"],
)
def test_ablations(folder, tmp_path, variant):
    fields = read_config(f"{ROOT}/configs/stage3.py:{variant}")
    vae = {
        "S2": lambda: write_vae(tmp_path, skip_connections=True),
        "S3": lambda: write_vae(tmp_path, latent_channels=8),
    }.get(variant, lambda: str(folder / "vae"))()
    names = ("generator", "trained", "lora_rank", "vae_lora_rank", "interpolated_latents")
    config = small_restoration(folder, vae=vae, **{name: getattr(fields, name) for name in names})
    stage, _, frozen, _, metrics = traced(config)
    assert set(metrics) == {"loss", "l2", "vsd", "critic"}
    trained = stage.trained["generator"]
    of_vae = [name for name in trained if name.startswith("vae.")]
    if variant == "S1":
        assert of_vae and not any("decoder" in name or "post_quant" in name for name in of_vae)
        assert any(name.startswith("vae.quant_conv") for name in of_vae)
    else:
        assert not of_vae
    own, shared = (jax.tree.leaves(frozen[name]) for name in ("unet", "sd"))
    assert not own and shared
    if variant == "S5":
        assert not any("lora" in name for name in trained)


def test_without_vsd_there_is_no_critic(folder):
    config = small_restoration(folder, loss=RestorationLossConfig(lpips=0.0, vsd=0.0))
    stage, _, _, grads, metrics = traced(config)
    assert set(grads) == set(stage.optim) == {"generator"} and set(metrics) == {"loss", "l2"}


def test_in_bfloat16_the_base_is_narrow_and_what_learns_is_not(folder):
    config = small_restoration(folder, dtype="bfloat16", remat=True)
    _, params, frozen, grads, metrics = traced(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen["sd"])} == {jnp.dtype("bfloat16")}
    for tree in (params, grads, metrics, frozen["vae"]):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("device", "dtype", "in_float16"),
    [
        (("gpu", "8.0"), "bfloat16", True),
        pytest.param(("gpu", "8.0"), "float32", False, marks=pytest.mark.slow),
        pytest.param(("tpu", ""), "bfloat16", False, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_on_gpus_the_teacher_has_more_digits_than_bfloat16(folder, device, dtype, in_float16):
    config = small_restoration(folder, dtype=dtype)
    with compiling_for(*device):
        stage, params, frozen = make_stage(config)
        program = str(jax.make_jaxpr(stage.gradients)(params, frozen, *batch_and_key(), 0))
    assert ("f16[" in program.replace("bf16[", "")) == in_float16


# --------------------------------------------------------------------------------------------------
# Runs
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """(workdir of a run of four steps with validation, its configuration)."""
    settings = small_restoration(
        folder,
        validation=ValidationConfig(str(HELDOUT_PHOTOGRAPHS), every=2, crop=48, lpips=False),
    )
    workdir = tmp_path_factory.mktemp("run")
    assert train(settings, workdir, quiet=True) == workdir / "model"
    return workdir, settings


def test_what_learns_is_told_by_parts(finished, folder, tmp_path, capsys):
    workdir, settings = finished
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    train(settings, tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    for part in ("unet.down_blocks.0 (", "unet.down_blocks.1 adapters (", "unet.conv_in ("):
        assert part in said
    assert "unet.mid_block adapters (" in said[said.index("critic: ") :]
    assert "lora_a" not in said
    listed = (tmp_path / "trained_parameters.txt").read_text().split()
    assert "generator.unet.down_blocks.0.resnets.0.conv1.kernel" in listed
    assert len(listed) == sum(map(len, make_stage(settings)[0].trained.values()))


def test_the_run_logs_losses_and_compares_with_its_input(finished):
    lines = read_metrics(finished[0])
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        for name in ("loss", "l2", "vsd", "critic", "grad_norm/generator", "grad_norm/critic"):
            assert np.isfinite(line[name]) and line[name] > 0, name
        assert abs(line["loss"] - line["l2"] - line["vsd"]) < 1e-5
    lines = read_metrics(finished[0], "validation/psnr")
    assert [line["step"] for line in lines] == [2, 4]
    # Degraded the same way every time.
    assert lines[0]["validation/input_psnr"] == lines[1]["validation/input_psnr"] > 10
    assert lines[0]["validation/psnr"] != lines[1]["validation/psnr"]


def test_the_result_is_a_model_that_infer_takes(finished, folder):
    """Its restoration is what the run's validation sees in the state of its last step."""
    workdir, settings = finished
    upscaler = Upscaler.from_folder(workdir / "model", "float32")
    sample = heldout_samples(settings.validation, settings.data)[0]
    got = upscaler.restore(sample["lr"], prompt=sample["prompt"], color_fix="none")
    stage, params, frozen = make_stage(settings)
    state = jax.device_put(init_state(stage, params, settings))
    manager = ocp.CheckpointManager(workdir / "checkpoints")
    kept = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_like(state)))
    state = manager.restore(4, args=kept).state
    batch = Collate(stage.tokenizer)([sample])
    inputs = {name: batch[name] for name in stage.inputs}
    want = jax.jit(stage.preview)(state.params, frozen, inputs)[0]
    assert np.abs(got - (np.asarray(want) + 1) / 2).max() < 2e-5
    assert np.abs(got - sample["lr"] / np.float32(255)).max() > 0.1


def test_parts_of_the_vae_are_trained_on_request(folder, tmp_path):
    parts = ("post_quant_conv", "decoder.conv_out")
    settings = small_restoration(folder, vae_trained=parts, trained=(), lora_rank=0, steps=1)
    settings.loss.vsd = 0.0
    train(settings, tmp_path, quiet=True)
    _, before = open_network(folder / "vae", "vae")
    _, after = open_network(tmp_path / "model" / "vae", "vae")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(tuple(f"{p}." for p in parts))}


def test_lpips_compares_one_part_of_both_images(folder, tmp_path, monkeypatch):
    """Its distance is that of a crop, another one for another key, the same of both images."""
    lpips = init_network("lpips", TINY, 0)
    save_network(
        tmp_path, "lpips", TINY, params_to_torch(lpips(lpips.params), lpips.params), "float32"
    )
    monkeypatch.setitem(LPIPS_NETS, "vgg16", TINY)
    loss = RestorationLossConfig(vsd=0, lpips=1.0, lpips_crop=28)
    config = small_restoration(folder, loss=loss, lpips=str(tmp_path), sample_posterior=False)
    stage, params, frozen = make_stage(config)
    batch = batch_of(0)
    output = np.asarray(jax.jit(stage.preview)(params, frozen, batch))
    compare = jax.jit(lambda a, b: jnp.mean(lpips(lpips.params)(a, b)))
    places = [(top, left) for top in range(SIDE - 27) for left in range(SIDE - 27)]
    possible = [
        compare(*(x[:, top : top + 28, left : left + 28] for x in (output, batch["hr"])))
        for top, left in places
    ]
    # Of the step only this is compiled.
    distance = jax.jit(lambda *arguments: stage.gradients(*arguments, 0)[1]["lpips"])
    seen = [float(distance(params, frozen, batch, jax.random.key(seed))) for seed in range(3)]
    assert len(set(seen)) > 1
    for value in seen:
        assert np.abs(np.array(possible) - value).min() < 1e-5


def test_adapters_on_request_stay_beside_the_weights(finished, folder, tmp_path):
    workdir, settings = finished
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    apart = dataclasses.replace(settings, adapters=True)
    train(apart, tmp_path, quiet=True)
    assert (tmp_path / "model" / "unet" / ADAPTER_FILE).is_file()
    merged = open_network(workdir / "model" / "unet", "unet")[1]
    both = open_network(tmp_path / "model" / "unet", "unet")[1]
    assert set(both) == set(merged)
    for name in merged:
        np.testing.assert_allclose(both[name], merged[name], atol=1e-7)
    _, back = out_and_back(tmp_path / "model", tmp_path)
    assert_same_models(tmp_path / "model", back, ("vae", "unet", "text_encoder"))


@pytest.mark.parametrize(("channels", "interpolated"), [(8, False), (2, True)])
def test_latents_that_the_unet_does_not_read_are_refused(folder, tmp_path, channels, interpolated):
    vae = write_vae(tmp_path, latent_channels=channels)
    with pytest.raises(UserError, match=f"has {channels} latent channels, the UNet in .* reads 4"):
        make_stage(small_restoration(folder, vae=vae, interpolated_latents=interpolated))


def test_groups_of_patches_must_spread_over_the_devices(folder, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    with pytest.raises(UserError, match="patches_at_once=3` is not a multiple of the 2 devices"):
        make_stage(
            small_restoration(folder, loss=RestorationLossConfig(patch=8, patches_at_once=3))
        )


def test_weights_of_the_generator_that_differ_are_held_besides_and_told(folder, finished):
    whole, _, _ = make_stage(small_restoration(folder))
    assert len(whole.notes) == 1 and "besides" not in whole.notes[0]
    again, _, frozen = make_stage(small_restoration(folder, unet=str(finished[0] / "model")))
    own = sum(leaf.size for leaf in jax.tree.leaves(frozen["unet"]))
    assert own and f"; {own:,} differ from them and are held besides" in again.notes[0]


def test_a_run_is_not_resumed_with_another_noise_schedule_or_prompt(finished, folder, tmp_path):
    workdir, settings = finished
    shutil.copytree(workdir / "checkpoints", tmp_path / "run" / "checkpoints")
    shutil.copytree(folder / "sd", tmp_path / "sd")
    path = tmp_path / "sd" / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace("0.012", "0.013"))
    changed = dataclasses.replace(settings, sd=str(tmp_path / "sd"), steps=settings.steps + 1)
    with pytest.raises(UserError, match="scheduler.beta_end: 0.012 then, 0.013 now"):
        train(changed, tmp_path / "run", quiet=True)
    data = dataclasses.replace(settings.data, prompt="8k")
    changed = dataclasses.replace(settings, data=data, steps=settings.steps + 1)
    with pytest.raises(UserError, match="data.prompt: '' then, '8k' now"):
        train(changed, tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(loss=RestorationLossConfig(patch=5)), "latents of 24 px, which patches of"),
        (dict(loss=RestorationLossConfig(patch=8, max_timestep=2000)), "beyond the 1000 timesteps"),
        (dict(loss=RestorationLossConfig(patch=8, patches_at_once=4)), "not divide the 18 patches"),
        (dict(trained=("nothing",)), "`config.trained`: this network has no nothing"),
        (dict(vae_trained=("nothing",)), "`config.vae_trained`: this network has no nothing"),
        (dict(critic_lora_parts=("nothing",)), "names no part of the critic"),
        (dict(vae="nowhere"), "not a vae folder"),
        (dict(sd="nowhere"), "nowhere/scheduler/scheduler_config.json"),
    ],
)
def test_what_does_not_fit_is_named(folder, changes, match):
    with pytest.raises(UserError, match=match):
        make_stage(small_restoration(folder, **changes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(generator="larger"), "larger` is not one of replicated, same, pruned"),
        (dict(trained=(), lora_rank=0), "nothing learns"),
        (dict(lora_rank=-1), "lora_rank` must not be negative"),
        (dict(critic_lora_rank=0), "critic_lora_rank` are not positive"),
        (dict(loss=RestorationLossConfig(l2=0, lpips=0, vsd=0)), "at least one weight"),
        (dict(loss=RestorationLossConfig(lpips=-1)), "must not be negative"),
        (dict(loss=RestorationLossConfig(lpips_crop=64)), "64` is not between 0 and .*crop=48"),
        (
            dict(loss=RestorationLossConfig(tone=1), data=DataConfig("photographs", crop=40)),
            "crop=40` is not a multiple of 16",
        ),
        (dict(loss=RestorationLossConfig(min_timestep=800)), "must be below"),
        (dict(critic_optim=OptimConfig(learning_rate=0)), "critic_optim.learning_rate"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(folder, changes, match):
    with pytest.raises(UserError, match=match):
        small_restoration(folder, **changes).validate()


def test_a_run_without_low_resolution_is_refused(folder, tmp_path):
    settings = small_restoration(folder)
    settings.data.degradation = None
    with pytest.raises(UserError, match="needs low resolution"):
        train(settings, tmp_path, quiet=True)
