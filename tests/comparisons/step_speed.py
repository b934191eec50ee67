"""`make step-speed`: the step of stage 3 here and in PyTorch, one after the other on one device.

PyTorch runs `tests.support.torch_restoration` as the release trains: diffusers' UNets with peft's
adapters, a UNet each for generator, teacher and critic, the teacher in bfloat16 and the other two
in float32 under autocast, plain and through `torch.compile`. Both have the same weights (random
ones), random images, text as embeddings, UNets that compute in bfloat16 and the rest in float32
with each framework's fast products, and compute activations again in the backward pass. Each runs
in a process of its own, so that its memory is its own.
"""

import argparse
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from tvt_jax.benchmarks.stand_ins import stand_in_vae, with_stand_ins
from tvt_jax.benchmarks.step_speed import peak_tflops, step_speed
from tvt_jax.config import RestorationTrainConfig, read_config
from tvt_jax.weights.lpips import lpips_folder

FULL, SMALL = "configs/stage3.py", "configs/stage3.py:tiny"
RUNS = ("jax", "pytorch", "pytorch-compiled")


def settings(small: bool, batch_size: int) -> RestorationTrainConfig:
    """The run that is timed."""
    config = read_config(SMALL if small else FULL)
    config.data.batch_size, config.loss.lpips = batch_size, 2.0
    config.lpips = str(lpips_folder("vgg16"))
    return config


def run_jax(config: RestorationTrainConfig, steps: int) -> dict:
    """Times our step."""
    _need_gpu(config, jax.default_backend() == "gpu", 'pip install "jax[cuda12]"')
    return dataclasses.asdict(step_speed(config, steps))


def run_pytorch(config: RestorationTrainConfig, steps: int, compiled: bool) -> dict:
    """Times PyTorch's step."""
    jax.config.update("jax_platforms", "cpu")  # which reads LPIPS's weights
    import torch
    from diffusers import UNet2DConditionModel
    from torch.utils.checkpoint import checkpoint

    from tests.support.lpips_package import reference_lpips
    from tests.support.small_release import LORA_WORDS
    from tests.support.torch_restoration import (
        RestorationSettings,
        TorchRestoration,
        add_adapters,
        replicated,
    )

    cuda = torch.cuda.is_available()
    _need_gpu(config, cuda, "install a CUDA build of torch")
    device = torch.device("cuda" if cuda else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    sixteen_bit = config.dtype == "bfloat16"

    def unet():
        return UNet2DConditionModel.from_pretrained(Path(config.sd) / "unet", dtype=torch.float32)

    lpips = reference_lpips("vgg16").to(device)
    run = TorchRestoration(
        teacher=unet().to(device, torch.bfloat16 if sixteen_bit else None),
        critic=add_adapters(unet(), LORA_WORDS, config.critic_lora_rank).to(device),
        generator=add_adapters(replicated(unet()), LORA_WORDS, config.lora_rank).to(device),
        vae=_vae(Path(config.vae)).to(device),
        lpips=lpips,
        settings=RestorationSettings(
            full_parts=config.trained, patch=config.loss.patch, autocast=sixteen_bit
        ),
    )
    for network in (run.generator, run.critic, run.teacher, run.vae):
        network.to(memory_format=torch.channels_last)
    if config.remat:
        for network in (run.generator, run.critic, run.vae):
            network.enable_gradient_checkpointing()
        run.lpips = functools.partial(checkpoint, lpips, use_reentrant=False)
    if compiled:
        for network in (run.generator, run.critic, run.teacher, run.vae.encoder, run.vae.decoder):
            network.compile()
    batch = run.on_device(*_random_batch(config, run))
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        run.step_on_device(batch)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    timed = seconds[2:]
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "seconds": (statistics.median(timed), min(timed), max(timed)),
        "peak": torch.cuda.max_memory_allocated() if cuda else None,
        "compile_seconds": seconds[0] + seconds[1] - 2 * statistics.median(timed),
    }


def _need_gpu(config: RestorationTrainConfig, there: bool, remedy: str) -> None:
    """Ends the process where a full-size step would run on a CPU, for hours."""
    if config.data.crop == 512 and not there:
        sys.exit(f"error: no GPU is seen here; {remedy}, or run with --small.")


def _vae(folder: Path):
    """A VAE-D4 folder in diffusers, whose class has no VAE without middle sections."""
    import safetensors.torch
    from diffusers import AutoencoderKL

    from tests.support.small_release import without_mid_blocks

    config = json.loads((folder / "config.json").read_text())
    assert config.pop("mid_block") is False
    vae = without_mid_blocks(AutoencoderKL.from_config(config))
    vae.load_state_dict(safetensors.torch.load_file(folder / "diffusion_pytorch_model.safetensors"))
    return vae.float()


def _random_batch(config: RestorationTrainConfig, run) -> tuple:
    """The arguments of `TorchRestoration.gradients`."""
    rng = np.random.default_rng(0)
    size, side, patch = config.data.batch_size, config.data.crop, config.loss.patch
    latent = side // 4
    channels, tiles = run.generator.config.in_channels, size * (latent // patch) ** 2

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    lr, hr = (rng.uniform(-1, 1, (size, side, side, 3)).astype(np.float32) for _ in range(2))
    text = normal(2, 77, run.generator.config.cross_attention_dim)
    draws = {"posterior": normal(size, latent, latent, channels)}
    for name, low, high in (("vsd", 250, 750), ("critic", 0, 1000)):
        draws[f"{name}_timesteps"] = rng.integers(low, high, tiles)
        draws[f"{name}_noise"] = normal(tiles, patch, patch, channels)
    return lr, hr, np.repeat(text[:1], size, axis=0), text[1:], draws


def main() -> None:
    """Runs both at every size of the batch and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=10, help="timed after two that are not")
    parser.add_argument("--small", action="store_true", help="the tiny variant, for a CPU")
    parser.add_argument("--only", choices=RUNS, nargs="+", default=RUNS, help="what to run")
    parser.add_argument("--in-folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_folder:
        print(json.dumps(_run(options)))
        return

    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95", **os.environ}
    jax.config.update("jax_platforms", "cpu")  # this process leaves the device to the others
    print("| batch | what | images/s | share of peak | s a step | memory, GiB | compilation |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        config = settings(options.small, 1)
        filled = with_stand_ins(config, Path(folder), stand_in_vae(config, None))
        (Path(folder) / "networks.json").write_text(json.dumps([filled.sd, filled.vae]))
        failed = False
        for size in options.batch_sizes:
            flops = None  # of the mathematics, so the same for all
            for name in options.only:
                command = [
                    sys.executable,
                    "-m",
                    "tests.comparisons.step_speed",
                    "--in-folder",
                    folder,
                ]
                command += ["--batch-sizes", str(size), "--steps", str(options.steps)]
                command += ["--only", name, *(["--small"] if options.small else [])]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
                if done.returncode:
                    failed = True
                    print(f"| {size} | {name} | failed, see above | | | | |", flush=True)
                    continue
                result = json.loads(done.stdout.strip().splitlines()[-1])
                flops = result.get("flops", flops)
                print(_row(size, name, result, flops), flush=True)
    sys.exit(failed)


def _run(options: argparse.Namespace) -> dict:
    [size], [name] = options.batch_sizes, options.only
    config = settings(options.small, size)
    config.sd, config.vae = json.loads((options.in_folder / "networks.json").read_text())
    if name == "jax":
        return run_jax(config, options.steps)
    return run_pytorch(config, options.steps, name == "pytorch-compiled")


def _row(size: int, name: str, result: dict, flops: float | None) -> str:
    median, least, most = result["seconds"]
    peak = peak_tflops(result["device"])
    share = "" if None in (peak, flops) else f"{flops / median / peak / 1e12:.0%}"
    memory = [
        f"{result[key] / 2**30:.2f} {word}"
        for key, word in (("peak", "at most"), ("held", "held"), ("needed", "for a step"))
        if result.get(key) is not None
    ]
    cells = [
        str(size),
        f"{name} on {result['device']}",
        f"{size / median:.3g}",
        share,
        f"{median:.3g} ({least:.3g} - {most:.3g})",
        ", ".join(memory),
        f"{result['compile_seconds']:.0f} s",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
