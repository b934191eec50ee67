"""`make step-speed`: the step of stage 3 here and in PyTorch, on one device.

PyTorch runs `tests.support.torch_restoration` as the release trains: diffusers' UNets with peft's
adapters, a UNet each for generator, teacher and critic, the teacher in bfloat16 and the other two
in float32 under autocast, plain and through `torch.compile`. Both have random weights (LPIPS's too)
and images, text as embeddings, UNets that compute in bfloat16 and the rest in float32
with each framework's fast products, and compute activations again in the backward pass. On a GPU
one follows the other, since its memory does not hold both; on a CPU (`--small`) they take turns.
"""

import argparse
import functools
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from tests.comparisons.alternating import Side, serve_side, side_speeds, take_turns
from tvt_jax.benchmarks.speed import peak_memory, program_figures, speed_table, write_speeds
from tvt_jax.benchmarks.stand_ins import stand_in_vae, with_stand_ins
from tvt_jax.benchmarks.step_speed import compile_random_step
from tvt_jax.config import RestorationTrainConfig, read_config
from tvt_jax.files import read_json, write_json

FULL, SMALL = "configs/stage3.py", "configs/stage3.py:tiny"
RUNS = ("jax", "pytorch", "pytorch-compiled")


def settings(small: bool, batch_size: int) -> RestorationTrainConfig:
    """The run that is timed."""
    config = read_config(SMALL if small else FULL)
    config.data.batch_size, config.loss.lpips, config.lpips = batch_size, 2.0, ""
    return config


def run_jax(config: RestorationTrainConfig) -> Side:
    """Our step, for `serve_side`."""
    _need_gpu(config, jax.default_backend() == "gpu", 'pip install "jax[cuda12]"')
    program = compile_random_step(config)
    return program.run, functools.partial(program_figures, program)


def run_pytorch(config: RestorationTrainConfig, compiled: bool) -> Side:
    """PyTorch's step, for `serve_side`."""
    jax.config.update("jax_platforms", "cpu")
    import torch
    from diffusers import UNet2DConditionModel
    from torch.utils.checkpoint import checkpoint

    from tests.support.lpips_package import import_lpips
    from tests.support.small_release import LORA_WORDS, load_diffusers_vae
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

    lpips = import_lpips().LPIPS(net="vgg", pnet_rand=True, verbose=False).eval().to(device)
    run = TorchRestoration(
        teacher=unet().to(device, torch.bfloat16 if sixteen_bit else None),
        critic=add_adapters(unet(), LORA_WORDS, config.critic_lora_rank).to(device),
        generator=add_adapters(replicated(unet()), LORA_WORDS, config.lora_rank).to(device),
        vae=load_diffusers_vae(Path(config.vae)).to(device),
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

    def step():
        run.step_on_device(batch)
        if cuda:
            torch.cuda.synchronize()

    start = time.perf_counter()
    step()
    compile_seconds = time.perf_counter() - start  # a step with whatever is compiled or tuned

    def figures():
        return {
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "peak": torch.cuda.max_memory_allocated() if cuda else peak_memory(),
            "compile_seconds": compile_seconds,
        }

    return step, figures


def _need_gpu(config: RestorationTrainConfig, there: bool, remedy: str) -> None:
    """Ends the process where a full-size step would run on a CPU, for hours."""
    if config.data.crop == 512 and not there:
        sys.exit(f"error: no GPU is seen here; {remedy}, or run with --small.")


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
    """Runs the sides at every size of the batch and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=10, help="steps that are timed")
    parser.add_argument("--small", action="store_true", help="the tiny variant, for a CPU")
    parser.add_argument("--runs", choices=RUNS, nargs="+", default=list(RUNS))
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--in-folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_folder:
        serve_side(lambda: _prepare(options), options.rounds)
        return

    jax.config.update("jax_platforms", "cpu")  # this process leaves the device to the others
    environment = {"XLA_CLIENT_MEM_FRACTION": "0.95"}
    speeds, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        config = settings(options.small, 1)
        filled = with_stand_ins(config, Path(folder), stand_in_vae(config, None))
        networks = {"sd": filled.sd, "vae": filled.vae, "lpips": filled.lpips}
        write_json(Path(folder) / "networks.json", networks)
        for size in options.batch_sizes:
            arguments = ["--in-folder", folder, "--batch-sizes", str(size)]
            arguments += ["--rounds", str(options.rounds), *(["--small"] * options.small)]
            sides = {name: [*arguments, "--runs", name] for name in options.runs}
            together = [sides] if options.small else [{name: side} for name, side in sides.items()]
            results = {}
            for some in together:
                module = "tests.comparisons.step_speed"
                results |= take_turns(module, some, options.rounds, environment)
            what = f"{'tiny, ' if options.small else ''}{config.data.crop} px, {config.dtype}"
            speeds += side_speeds(results, what, size)
            failed += [f"{n} with a batch of {size}" for n, result in results.items() if not result]
    print(speed_table(speeds))
    if options.json:
        write_speeds(options.json, speeds, failed=failed)
    if failed:
        sys.exit(f"failed, see above: {', '.join(failed)}")


def _prepare(options: argparse.Namespace) -> Side:
    [size], [name] = options.batch_sizes, options.runs
    config = settings(options.small, size)
    networks = read_json(options.in_folder / "networks.json")
    config.sd, config.vae, config.lpips = (networks[name] for name in ("sd", "vae", "lpips"))
    return run_jax(config) if name == "jax" else run_pytorch(config, name == "pytorch-compiled")


if __name__ == "__main__":
    main()
