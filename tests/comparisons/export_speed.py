"""What exported models cost and how they agree: `python -m tests.comparisons.export_speed`.

Exports a model, then upscales a photograph a few times by `Upscaler` and by the files, every step
in a process of its own. SavedModel needs TensorFlow.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.comparisons.photographs import synthetic_image

LATER_CALLS, LONG = 3, 10.0  # one call alone, if it takes so many seconds


def write_full_size(model: Path) -> None:
    """Writes VAE-D4, CE-UNet and the embedding of a prompt at full size, with random weights."""
    from tvt_jax.config import CE_UNET, VAE_D4, SchedulerConfig
    from tvt_jax.models.networks import abstract_network
    from tvt_jax.weights.model_folder import (
        save_network,
        write_model_index,
        write_scheduler_config,
    )
    from tvt_jax.weights.names import torch_tensors
    from tvt_jax.weights.prompt_embeds import PromptEmbeds, save_prompt_embeds

    random = np.random.default_rng(0)

    def weights(shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 1:  # of norms, and biases
            return np.ones(shape, np.float32)
        return random.standard_normal(shape, np.float32) / np.float32(np.prod(shape[1:]) ** 0.5)

    for kind, config in {"vae": VAE_D4, "unet": CE_UNET}.items():
        tensors = torch_tensors(abstract_network(kind, config)).values()
        save_network(
            model / kind, kind, config, {t.name: weights(t.shape) for t in tensors}, "float32"
        )
    embedding = random.standard_normal((1, 77, CE_UNET.cross_attention_dim), np.float32)
    save_prompt_embeds(model, PromptEmbeds(embedding, embedding))
    write_scheduler_config(model, SchedulerConfig())
    write_model_index(model)


def load_upscaler(model: Path) -> Callable:
    from tvt_jax import Upscaler

    upscaler = Upscaler.from_folder(model, "float32")

    def upscale(image):
        enlarged = enlarge(image)
        return np.round(np.clip(upscaler.restore(enlarged, tags=()), 0, 1) * 255)

    return upscale


def load_stablehlo(folder: Path) -> Callable:
    from tvt_jax import ExportedUpscaler

    exported = ExportedUpscaler(folder)
    return lambda image: exported.run("upscale", image[None])[0]


def load_saved_model(folder: Path) -> Callable:
    import tensorflow as tf

    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return lambda image: signature(images=tf.constant(image[None]))["images"].numpy()[0]


def enlarge(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    size = (4 * image.shape[1], 4 * image.shape[0])
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


LOADERS = {
    "upscaler": load_upscaler, "stablehlo": load_stablehlo, "saved_model": load_saved_model,
}  # fmt: skip


def export(model: Path, folder: Path, format: str) -> dict:
    """Seconds and bytes of an export, which compares itself with `Upscaler`."""
    from tvt_jax.export.exporting import export_model

    start = time.perf_counter()
    export_model(model, folder, format, "float32", "adain")
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"export": seconds, "MB": size / 1e6}


def upscale(folder: Path, loader: str, side: int) -> dict:
    """Seconds of loading, the first call and the fastest of the later ones; keeps the result."""
    start = time.perf_counter()
    run = LOADERS[loader](folder)
    times = [time.perf_counter() - start]
    image = synthetic_image(side)
    while len(times) < 3 or (len(times) < 2 + LATER_CALLS and times[-1] < LONG):
        start = time.perf_counter()
        result = run(image)
        times.append(time.perf_counter() - start)
    np.save(folder.parent / f"{loader}.npy", result)
    return {"load": times[0], "first call": times[1], "later calls": min(times[2:])}


def main() -> None:
    """Runs all and prints a table; exit status 1 if anything is more than 1 level off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="default: the small bundled model")
    parser.add_argument("--full-size", action="store_true", help="random weights, 10 GB of disk")
    parser.add_argument("--formats", nargs="+", default=["stablehlo", "saved_model"])
    parser.add_argument("--side", type=int, default=128, help="of the input, px")
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        function, folder, name = options.only
        if function == "export":
            result = export(options.model, Path(folder), name)
        else:
            result = upscale(Path(folder), name, options.side)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        print(json.dumps({**result, "GiB": peak}))
        return

    from tvt_jax.bundled import SMALL_MODEL

    with tempfile.TemporaryDirectory() as work:
        model = options.model or SMALL_MODEL
        if options.full_size:
            model = Path(work) / "model"
            write_full_size(model)

        def run(function: str, folder: Path, name: str) -> str:
            command = [sys.executable, "-m", "tests.comparisons.export_speed", "--model", model]
            command += ["--side", options.side, "--only", function, folder, name]
            done = subprocess.run(
                list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True
            )
            figures = json.loads(done.stdout.strip().splitlines()[-1])
            return ", ".join(f"{key} {value:.2f}" for key, value in figures.items())

        # Its result is kept beside the model: not in the package's folder.
        (Path(work) / "upscaler").symlink_to(model.resolve())
        print("upscaler:", run("upscale", Path(work) / "upscaler", "upscaler"), flush=True)
        want = np.load(Path(work) / "upscaler.npy")
        worst = 0
        for name in options.formats:
            folder = Path(work) / name
            print(f"{name}, exporting:", run("export", folder, name), flush=True)
            print(f"{name}:", run("upscale", folder, name), flush=True)
            difference = np.abs(np.load(Path(work) / f"{name}.npy") - want).max()
            print(f"{name}: {difference:.0f} levels off `Upscaler` at most", flush=True)
            worst = max(worst, difference)
    if worst > 1:
        sys.exit("more than 1 level off")


if __name__ == "__main__":
    main()
