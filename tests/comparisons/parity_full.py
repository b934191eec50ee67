"""`make parity-full`: full-width networks in PyTorch and here, one after the other.

VAE-D4, CE-UNet and text encoder at Stable Diffusion 2.1's widths with seeded random weights
restore one image. Each framework runs in a process of its own, so that peak memory is its own;
PyTorch writes the weights and we read them through the usual loader.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TOKENS = np.random.default_rng(1).integers(0, 49408, (1, 77))
TIMESTEP = 1


def synthetic_image(side: int) -> np.ndarray:
    """[side, side, 3] uint8: a bundled photograph, mirrored where it is too small."""
    from PIL import Image

    import tvt_jax

    path = Path(tvt_jax.__file__).parent / "assets/photographs/heldout/hawa_mahal_facade.jpg"
    image = np.asarray(Image.open(path).convert("RGB"))
    return np.pad(image, ((0, side), (0, side), (0, 0)), mode="symmetric")[:side, :side]


def run_pytorch(folder: Path, side: int) -> dict:
    """Builds and saves the networks, restores the image."""
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tests.support.small_release import vae_d4
    from tvt_jax.config import CE_UNET, SD21_TEXT_ENCODER, VAE_D4
    from tvt_jax.files import write_json

    torch.manual_seed(0)
    text = CLIPTextModel(CLIPTextConfig(**SD21_TEXT_ENCODER.to_json())).eval()
    text.save_pretrained(folder / "text_encoder")
    vae: AutoencoderKL = vae_d4(VAE_D4.block_out_channels)
    vae.save_pretrained(folder / "vae")
    write_json(folder / "vae" / "config.json", VAE_D4.to_json())
    options = {k: v for k, v in CE_UNET.to_json().items() if not k.startswith("_")}
    unet = UNet2DConditionModel(**options).eval()
    unet.save_pretrained(folder / "unet")
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )

    pixels = torch.from_numpy(synthetic_image(side)).permute(2, 0, 1)[None].float() / 127.5 - 1
    start = time.perf_counter()
    with torch.no_grad():
        context = text(torch.from_numpy(TOKENS)).last_hidden_state
        latent = vae.encode(pixels).latent_dist.mean * 0.18215
        noise = unet(latent, torch.tensor([TIMESTEP]), encoder_hidden_states=context).sample
        scheduler.set_timesteps(timesteps=[TIMESTEP])
        clean = scheduler.step(noise, TIMESTEP, latent).prev_sample
        image = vae.decode(clean / 0.18215).sample
    seconds = time.perf_counter() - start
    outputs = {
        "context": context,
        "latent": latent.permute(0, 2, 3, 1),
        "noise": noise.permute(0, 2, 3, 1),
        "image": image.permute(0, 2, 3, 1),
    }
    np.savez(folder / "pytorch.npz", **{k: v.numpy() for k, v in outputs.items()})
    return {"seconds": seconds}


def run_jax(folder: Path, side: int) -> dict:
    """Loads the same networks, restores the image, compares."""
    import jax
    import jax.numpy as jnp

    from tvt_jax.config import SchedulerConfig
    from tvt_jax.diffusion import alphas_cumprod, predict_clean
    from tvt_jax.weights.model_folder import load_network

    jax.config.update("jax_default_matmul_precision", "highest")
    vae, unet, text = (
        load_network(folder / kind, kind, jnp.float32, jnp.float32)
        for kind in ("vae", "unet", "text_encoder")
    )
    alpha_bar = float(alphas_cumprod(SchedulerConfig())[TIMESTEP])

    def restore(vae_params, unet_params, text_params, pixels, tokens):
        context = text(text_params)(tokens)
        autoencoder = vae(vae_params)
        latent = autoencoder.encode(pixels)[0] * 0.18215
        noise = unet(unet_params)(latent, jnp.array([TIMESTEP]), context)
        image = autoencoder.decode(predict_clean(latent, noise, alpha_bar) / 0.18215)
        return {"context": context, "latent": latent, "noise": noise, "image": image}

    pixels = jnp.asarray(synthetic_image(side), jnp.float32)[None] / 127.5 - 1
    arguments = (vae.params, unet.params, text.params, pixels, jnp.asarray(TOKENS))
    start = time.perf_counter()
    compiled = jax.jit(restore).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    start = time.perf_counter()
    outputs = jax.device_get(compiled(*arguments))
    seconds = time.perf_counter() - start
    reference = np.load(folder / "pytorch.npz")
    differences = {k: float(np.abs(v - reference[k]).max()) for k, v in outputs.items()}
    magnitudes = {k: float(np.abs(reference[k]).max()) for k in outputs}
    return {
        "seconds": seconds,
        "compile_seconds": compile_seconds,
        "differences": differences,
        "magnitudes": magnitudes,
    }


def main() -> None:
    """Runs both and prints a report; exit status 1 if they differ by more than 1e-4."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=128, help="side of the restored image, px")
    parser.add_argument("--only", choices=["pytorch", "jax"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        run = run_pytorch if options.only == "pytorch" else run_jax
        result = run(options.folder, options.side)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        print(json.dumps({**result, "peak_gib": peak}))
        return

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for framework in ("pytorch", "jax"):
            command = [sys.executable, "-m", "tests.comparisons.parity_full", "--only", framework]
            command += ["--folder", folder, "--side", str(options.side)]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ
            )
            results[framework] = json.loads(done.stdout.strip().splitlines()[-1])
    ours, theirs = results["jax"], results["pytorch"]
    print(f"one {options.side}x{options.side} px image, full width, float32, CPU")
    for name, difference in ours["differences"].items():
        magnitude = ours["magnitudes"][name]
        print(f"  {name:8} greatest difference {difference:.2e} (values up to {magnitude:.2f})")
    print(f"  PyTorch  {theirs['seconds']:.1f} s, peak {theirs['peak_gib']:.1f} GiB")
    print(
        f"  here     {ours['seconds']:.1f} s (and {ours['compile_seconds']:.1f} s of compilation "
        f"once), peak {ours['peak_gib']:.1f} GiB"
    )
    if max(ours["differences"].values()) > 1e-4:
        sys.exit("the frameworks differ by more than 1e-4")


if __name__ == "__main__":
    main()
