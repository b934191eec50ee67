"""Restoration here and in PyTorch: do they agree, how fast are they, what memory do they take.

`make infer-speed` on a GPU, `make parity-full` on a CPU: VAE-D4 and CE-UNet at Stable Diffusion
2.1's widths, with random weights that PyTorch writes and the usual loader reads. PyTorch is
diffusers' networks with fused attention, channels last, plain and through `torch.compile`. Both
sides have the same dtypes and the same fast products, and take turns.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from tests.comparisons.alternating import Side, serve_side, side_speeds, take_turns
from tests.comparisons.photographs import synthetic_image
from tvt_jax.benchmarks.infer_speed import compile_restoration
from tvt_jax.benchmarks.speed import (
    Speed,
    peak_memory,
    program_figures,
    speed_table,
    write_speeds,
)
from tvt_jax.bundled import SMALL_MODEL
from tvt_jax.config import CE_UNET, SD21_TEXT_ENCODER, VAE_D4, SchedulerConfig
from tvt_jax.diffusion import ONE_STEP_TIMESTEP, alphas_cumprod
from tvt_jax.files import write_json
from tvt_jax.inference.loading import vae_dtype
from tvt_jax.weights.model_folder import (
    load_network,
    read_network_config,
    read_scheduler_config,
    write_scheduler_config,
)

RUNS = ("jax", "pytorch", "pytorch-compiled")
TOLERANCE = 1e-4  # of the greatest value: rounding in float32 by networks of a hundred layers


def write_networks(folder: Path, small: bool) -> None:
    """Writes diffusers' networks with random weights, and what the text encoder says to tokens."""
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tests.support.small_release import diffusers_vae

    vae, unet, text = VAE_D4, CE_UNET, SD21_TEXT_ENCODER
    if small:
        vae, unet = (read_network_config(SMALL_MODEL / kind, kind) for kind in ("vae", "unet"))
        text = dataclasses.replace(
            text, hidden_size=unet.cross_attention_dim, num_attention_heads=2, intermediate_size=64,
            num_hidden_layers=1,
        )  # fmt: skip
    torch.manual_seed(0)
    diffusers_vae(vae.to_json()).save_pretrained(folder / "vae")
    write_json(folder / "vae" / "config.json", vae.to_json())
    options = {k: v for k, v in unet.to_json().items() if not k.startswith("_")}
    UNet2DConditionModel(**options).save_pretrained(folder / "unet")
    write_scheduler_config(folder, SchedulerConfig())
    encoder = CLIPTextModel(CLIPTextConfig(**text.to_json())).eval()
    encoder.save_pretrained(folder / "text_encoder")
    tokens = np.random.default_rng(1).integers(0, text.vocab_size, (1, 77))
    with torch.no_grad():
        context = encoder(torch.from_numpy(tokens)).last_hidden_state
    np.savez(folder / "text.npz", tokens=tokens, context=context.numpy())


def inputs(folder: Path, size: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(images [B, H, W, 3] float32 in [-1, 1], context [B, N, C] float32)."""
    image = synthetic_image(size).astype(np.float32) / 127.5 - 1
    with np.load(folder / "text.npz") as text:
        context = text["context"]
    return tuple(np.repeat(x, batch_size, axis=0) for x in (image[None], context))


def run_jax(folder: Path, options: argparse.Namespace) -> Side:
    """Our side, for `serve_side`."""
    if options.dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")
    dtypes = {"vae": options.vae_dtype, "unet": options.dtype}
    vae, unet = (load_network(folder / kind, kind, d, d) for kind, d in dtypes.items())
    images, context = inputs(folder, options.size, options.batch_size)
    alpha_bar = float(alphas_cumprod(read_scheduler_config(folder))[ONE_STEP_TIMESTEP])
    program = compile_restoration(vae, unet, images, context.astype(unet.dtype), alpha_bar)

    def figures():
        told = program_figures(program)
        restored, clean = (np.asarray(x, np.float32) for x in program.run())
        pairs = {}
        if (folder / "pytorch.npz").is_file():
            with np.load(folder / "pytorch.npz") as theirs:
                pairs = {"latent": (clean, theirs["clean"]), "image": (restored, theirs["image"])}
        if options.dtype == "float32":
            pairs["text embedding"] = _text_embeddings(folder)
        compared = {
            name: (float(np.abs(ours - want).max()), float(np.abs(want).max()))
            for name, (ours, want) in pairs.items()
        }
        return {**told, "compared": compared}

    return program.run, figures


def _text_embeddings(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(ours, PyTorch's) of the tokens."""
    text = load_network(folder / "text_encoder", "text_encoder", "float32", "float32")
    with np.load(folder / "text.npz") as saved:
        ours = jax.jit(lambda params, tokens: text(params)(tokens))(text.params, saved["tokens"])
        return np.asarray(ours), saved["context"]


def run_pytorch(folder: Path, options: argparse.Namespace) -> Side:
    """PyTorch's side, for `serve_side`."""
    jax.config.update("jax_platforms", "cpu")
    import torch
    from diffusers import DDPMScheduler, UNet2DConditionModel

    from tests.support.small_release import load_diffusers_vae

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if options.dtype != "float32":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    unet = UNet2DConditionModel.from_pretrained(
        folder / "unet", dtype=getattr(torch, options.dtype)
    )
    vae = load_diffusers_vae(folder / "vae").to(getattr(torch, options.vae_dtype))
    for network in (unet, vae):
        network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    if options.runs == ["pytorch-compiled"]:
        for network in (unet, vae.encoder, vae.decoder):
            network.compile()
    scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    scheduler.set_timesteps(timesteps=[ONE_STEP_TIMESTEP])
    images, context = (
        torch.from_numpy(x) for x in inputs(folder, options.size, options.batch_size)
    )
    images = images.permute(0, 3, 1, 2).to(device, vae.dtype, memory_format=torch.channels_last)
    context, scaling = context.to(device, unet.dtype), vae.config.scaling_factor
    timestep = torch.tensor([ONE_STEP_TIMESTEP], device=device)

    def restore():
        with torch.inference_mode():
            latent = vae.encode(images).latent_dist.mean * scaling
            noise = unet(latent.to(unet.dtype), timestep, encoder_hidden_states=context).sample
            clean = scheduler.step(noise.to(latent.dtype), ONE_STEP_TIMESTEP, latent).prev_sample
            restored = vae.decode(clean / scaling).sample
        if cuda:
            torch.cuda.synchronize()
        return restored, clean

    start = time.perf_counter()
    restored, clean = (x.float().permute(0, 2, 3, 1).cpu().numpy() for x in restore())
    compile_seconds = time.perf_counter() - start  # a call with whatever is compiled or tuned
    np.savez(folder / "pytorch.npz", image=restored, clean=clean)
    name = torch.cuda.get_device_name() if cuda else "cpu"

    def figures():
        peak = torch.cuda.max_memory_allocated() if cuda else peak_memory()
        return {"device": name, "peak": peak, "compile_seconds": compile_seconds}

    return restore, figures


def compare(
    folder: Path, batch_size: int, options: argparse.Namespace
) -> tuple[list[Speed], dict, list[str]]:
    """Runs the sides on a batch: (their figures, differences by name, sides that failed)."""
    given = ("size", "rounds", "dtype", "vae_dtype")
    arguments = ["--in-folder", str(folder), "--batch-sizes", str(batch_size)]
    for name in given:
        arguments += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    sides = {name: [*arguments, "--runs", name] for name in options.runs}
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # the sides share a GPU's memory
    results = take_turns("tests.comparisons.infer_speed", sides, options.rounds, environment)
    what = f"{options.size} px, UNet {options.dtype}, VAE {options.vae_dtype}"
    failed = [name for name, result in results.items() if result is None]
    compared = (results["jax"] or {}).get("compared", {})
    return side_speeds(results, what, batch_size), compared, failed


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="side of the output, px")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtype", default="bfloat16", help="of the UNet")
    parser.add_argument("--vae-dtype", help="of the VAE; left out: as in `infer`")
    parser.add_argument("--rounds", type=int, default=10, help="calls that are timed")
    parser.add_argument("--runs", choices=RUNS, nargs="+", default=list(RUNS))
    parser.add_argument("--small", action="store_true", help="as wide as the bundled model")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--in-folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.vae_dtype = options.vae_dtype or vae_dtype(options.dtype)
    return options


def main() -> None:
    """Prints a table in Markdown; exit status 1 if a side failed or differs in float32."""
    options = parse()
    if options.in_folder:
        [options.batch_size], [name] = options.batch_sizes, options.runs
        run = run_jax if name == "jax" else run_pytorch
        serve_side(lambda: run(options.in_folder, options), options.rounds)
        return
    jax.config.update("jax_platforms", "cpu")  # this process leaves the device to the others
    if "jax" not in options.runs:
        sys.exit("error: --runs needs jax, which the others are compared with")
    speeds, compared, problems = [], {}, []
    with tempfile.TemporaryDirectory() as folder:
        write_networks(Path(folder), options.small)
        for batch_size in options.batch_sizes:
            measured, differences, failed = compare(Path(folder), batch_size, options)
            speeds += measured
            compared[batch_size] = differences
            problems += [f"{name} failed with a batch of {batch_size}" for name in failed]
    print(f"{speed_table(speeds)}\n")
    for batch_size, differences in compared.items():
        for name, (difference, magnitude) in differences.items():
            print(f"- batch {batch_size}, {name}: {difference:.1e} off, of up to {magnitude:.2g}")
            exact = options.dtype == options.vae_dtype == "float32"
            if exact and not difference < TOLERANCE * magnitude:
                problems.append(f"the {name} differs by more than {TOLERANCE}")
    if options.json:
        write_speeds(options.json, speeds, compared=compared)
    if problems:
        sys.exit("; ".join(problems))


if __name__ == "__main__":
    main()
