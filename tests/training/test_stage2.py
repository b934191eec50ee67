"""Stage 2: what learns, what stays, and that an interrupted run ends as an uninterrupted one."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from tests.support.parity import max_difference
from tvt_jax.config import DataConfig, MeshConfig, OptimConfig, TrainConfig, VAEConfig
from tvt_jax.errors import UserError
from tvt_jax.training.loop import train
from tvt_jax.training.stage2 import make_stage

ROOT = Path(__file__).parent.parent.parent
PHOTOGRAPHS = ROOT / "tvt_jax" / "assets" / "photographs" / "train"


def config(**changes) -> TrainConfig:
    """A VAE so small that a step takes milliseconds."""
    values = dict(
        stage="stage2",
        vae=VAEConfig(
            block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block=False
        ),
        trained=("encoder", "quant_conv"),
        steps=6,
        log_every=1,
        checkpoint_every=2,
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=2),
        data=DataConfig(train=str(PHOTOGRAPHS), crop=16, batch_size=4, threads=1),
    )
    return TrainConfig(**{**values, **changes})


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def weights(workdir):
    return safetensors.numpy.load_file(
        workdir / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir of an uninterrupted run of six steps, its configuration)."""
    workdir = tmp_path_factory.mktemp("run")
    train(config(), workdir, quiet=True)
    return workdir, config()


def test_only_the_encoder_learns(finished):
    workdir, settings = finished
    stage = make_stage(settings)
    assert all(name.startswith(("encoder.", "quant_conv.")) for name in stage.trained)
    assert not any("decoder" in name for name in stage.trained)
    from tvt_jax.weights.model_folder import abstract_network, init_network
    from tvt_jax.weights.names import params_to_torch

    network = init_network("vae", settings.vae, settings.seed)
    before = params_to_torch(abstract_network("vae", settings.vae), network.params)
    after = weights(workdir)
    assert set(before) == set(after)
    for name, array in after.items():
        if name.startswith(("decoder.", "post_quant_conv.")):
            np.testing.assert_array_equal(array, before[name])
        else:
            assert np.abs(array - before[name]).max() > 0, name


def test_metrics_are_logged_for_every_step(finished):
    lines = metrics(finished[0])
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert lines[0]["learning_rate"] == 0.0 and abs(lines[-1]["learning_rate"] - 1e-3) < 1e-9
    for line in lines:
        assert np.isfinite(line["loss"]) and line["grad_norm"] > 0
        assert line["images_per_second"] > 0
    assert list((finished[0] / "tensorboard").iterdir())


def test_the_trained_vae_is_a_diffusers_folder(finished):
    from diffusers import AutoencoderKL

    saved = json.loads((finished[0] / "model" / "vae" / "config.json").read_text())
    assert saved["_class_name"] == "AutoencoderKL" and saved["mid_block"] is False
    vae = AutoencoderKL.from_config({**saved, "mid_block_add_attention": False})
    names = {n for n in vae.state_dict() if "mid_block" not in n}
    assert names == set(weights(finished[0]))


def test_the_step_equals_pytorch(finished):
    """Loss, gradients and AdamW against the same formulas in PyTorch, three steps."""
    import torch

    from tests.support.small_release import vae_d4
    from tvt_jax.training.state import init_state, make_optimizer, split_trained
    from tvt_jax.weights.model_folder import abstract_network
    from tvt_jax.weights.names import params_from_torch, params_to_torch, torch_tensors
    from tvt_jax.weights.tensor_files import torch_tensors_as_numpy

    torch.manual_seed(0)
    reference = vae_d4((32, 32))
    for parameter in [*reference.decoder.parameters(), *reference.post_quant_conv.parameters()]:
        parameter.requires_grad_(False)
    settings = config(
        vae=VAEConfig(block_out_channels=(32, 32), mid_block=False),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=0, weight_decay=1e-2, clip_norm=0.5),
    )
    stage = make_stage(settings)
    model = abstract_network("vae", settings.vae)
    tensors = torch_tensors_as_numpy(reference.state_dict(), "reference")
    params = params_from_torch(model, tensors, jnp.float32, "reference")
    _, trained, frozen, _ = split_trained(model, params, settings.trained)
    state = init_state(trained, make_optimizer(settings.optim))

    learning = [p for p in reference.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-2)
    key, step = jax.random.key(0), jax.jit(stage.step)
    for number in range(3):
        image = np.random.default_rng(number).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
        draws = jax.random.normal(jax.random.fold_in(key, number), (2, 4, 4, 4))
        pixels = torch.from_numpy(image).permute(0, 3, 1, 2)
        posterior = reference.encode(pixels).latent_dist
        noise = torch.from_numpy(np.asarray(draws)).permute(0, 3, 1, 2)
        output = reference.decode(posterior.mean + posterior.std * noise).sample
        loss = (output - pixels).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(learning, 0.5)
        optimizer.step()
        state, got = step(state, frozen, {"hr": image}, key)
        assert abs(float(got["loss"]) - loss.item()) < 1e-5
        assert abs(float(got["grad_norm"]) - norm.item()) < 1e-5 * max(1.0, norm.item())
    from flax import nnx

    merged = nnx.as_pure(nnx.state(nnx.merge(*split_graph(model, settings), state.params, frozen)))
    ours, want = params_to_torch(model, merged), reference.state_dict()
    assert len(ours) == len(torch_tensors(model))
    for name in ours:
        assert max_difference(ours[name], want[name].numpy()) < 1e-5, name


def split_graph(model, settings):
    from flax import nnx

    from tvt_jax.training.state import split_trained

    return split_trained(model, nnx.as_pure(nnx.state(model)), settings.trained)[:1]


def run_command(workdir, *options, wait=True):
    command = [
        sys.executable, "-m", "tvt_jax.train", "--config", f"{ROOT}/configs/stage2.py:tiny",
        "--workdir", str(workdir), "--config.data.crop=32", "--config.data.batch_size=2",
        "--config.checkpoint_every=3", "--config.log_every=1", "--quiet", *options,
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    if wait:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return process


def wait_for_step(process, workdir, step):
    path = workdir / "metrics.jsonl"
    for _ in range(1200):
        if path.is_file() and any(line["step"] >= step for line in _lines(path)):
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise TimeoutError


def _lines(path):
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "terminate"])
def test_an_interrupted_run_ends_bit_identical(tmp_path, number, uninterrupted):
    process = run_command(tmp_path, "--config.steps=14", wait=False)
    wait_for_step(process, tmp_path, 7)
    process.send_signal(number)
    process.wait()
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    assert not (tmp_path / "model").exists()
    run_command(tmp_path, "--config.steps=14")
    want, got = weights(uninterrupted), weights(tmp_path)
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])
    keep = ("step", "loss", "l1", "grad_norm")
    assert [[line[k] for k in keep] for line in metrics(tmp_path)] == [
        [line[k] for k in keep] for line in metrics(uninterrupted)
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    run_command(workdir, "--config.steps=14")
    return workdir


def test_eight_devices_compute_what_one_does(tmp_path):
    """Losses of a data mesh and of an fsdp mesh over eight simulated devices."""
    code = """
import sys, jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from pathlib import Path
from tests.training.test_stage2 import config
from tvt_jax.config import DataConfig, MeshConfig
from tvt_jax import parallel
from tvt_jax.training.loop import train
parallel._MIN_SPLIT_ELEMENTS = 8  # split even the small arrays of this test
settings = config(steps=3, mesh=MeshConfig(int(sys.argv[2]), int(sys.argv[3])))
settings.data.batch_size = 8
train(settings, Path(sys.argv[4]), quiet=True)
"""
    runs = {}
    for mesh in ((1, 1, 1), (8, 8, 1), (8, 2, 4)):
        workdir = tmp_path / "_".join(map(str, mesh))
        arguments = [*map(str, mesh), str(workdir)]
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=ROOT)
        runs[mesh] = [line["loss"] for line in metrics(workdir)]
    for losses in runs.values():
        np.testing.assert_allclose(losses, runs[1, 1, 1], atol=1e-5)


# --------------------------------------------------------------------------------------------------
# Mistakes
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--config", "configs/stage2.py"], "--config.data.train=... --config.init_vae=..."),
        (["--config", "configs/stage2.py:tiny", "--config.data.train=nowhere"], "not a folder"),
        (["--config", "configs/stage2.py:tiny", "--config.data.train=configs"], "no pictures"),
        (["--config", "configs/stage2.py:tiny", "--config.data.crop=63"], "not a multiple"),
        (["--config", "configs/stage2.py:tiny", "--config.data.crop=4000"], "smaller than"),
        (["--config", "configs/stage2.py:tiny", "--config.init_vae=configs"], "not a vae folder"),
        (["--config", "configs/stage2.py:tiny", "--config.steps=0"], "must be positive"),
        (["--config", "configs/stage2.py:tiny", "--config.mesh.data=3"], "does not fit"),
        (["--config", "configs/stage2.py:huge"], "huge"),
        (["--config", "configs/nothing.py"], "nothing.py"),
        (["--config", "configs/stage2.py:tiny", "--config.step=3"], "step"),
        ([], "--config is missing"),
    ],
)
def test_mistakes_end_with_status_2_and_one_line(tmp_path, options, match):
    command = [sys.executable, "-m", "tvt_jax.train", "--workdir", str(tmp_path / "run"), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert match in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_another_run_in_the_same_folder_is_refused(finished):
    changed = config(seed=1, steps=9)
    with pytest.raises(UserError, match="another run .*seed: 0 then, 1 now"):
        train(changed, finished[0], quiet=True)


def test_parts_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(UserError, match="no encodr"):
        train(config(trained=("encodr",)), tmp_path, quiet=True)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        train(config(), tmp_path / "file" / "run", quiet=True)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    exploding = config(optim=OptimConfig(learning_rate=1e30, warmup_steps=0), steps=20)
    with pytest.raises(UserError, match="not finite at step"):
        train(exploding, tmp_path, quiet=True)


def test_meshes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not fit 1 devices"):
        train(config(mesh=MeshConfig(data=-1, fsdp=2)), tmp_path, quiet=True)
