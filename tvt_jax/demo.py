"""`python -m tvt_jax.demo`: first light without any download.

Trains the encoder of a small VAE-D4 on the bundled photographs (stage 2, tiny) and shows what the
VAE makes of photographs that it never saw, before and after.
"""

import shutil
import time
from pathlib import Path

from tvt_jax.cli import run
from tvt_jax.config import read_config

_CONFIG = "configs/stage2.py:tiny"


def demo(output: Path = Path("outputs/demo")) -> None:
    """Train a small VAE on the bundled photographs and reconstruct held-out ones.

    Args:
        output: folder for the pictures and the run; an earlier demo in it is replaced.
    """
    import jax.numpy as jnp
    import numpy as np

    import tvt_jax
    from tvt_jax.compilation import enable_compilation_cache
    from tvt_jax.evaluation.metrics import psnr
    from tvt_jax.evaluation.reconstruction import reconstruct
    from tvt_jax.inference.image_files import read_image, write_image
    from tvt_jax.training.loop import train
    from tvt_jax.weights.model_folder import load_network

    enable_compilation_cache()
    shutil.rmtree(output / "run", ignore_errors=True)
    config = read_config(_CONFIG)
    start = time.perf_counter()
    print(f"Stage 2: training the encoder of a small VAE-D4 for {config.steps} steps.")
    result = train(config, output / "run")
    print(f"{time.perf_counter() - start:.0f} s")

    vae = load_network(result, "vae", jnp.float32, jnp.float32)
    held_out = Path(tvt_jax.__file__).parent / "assets" / "photographs" / "heldout"
    for path in sorted(held_out.glob("*.jpg")):
        image = read_image(path)
        restored = reconstruct(vae, image)
        target = output / f"{path.stem}.png"
        write_image(target, np.concatenate([image, restored], axis=1))
        print(f"{path.stem}: PSNR {psnr(restored, image):.2f} dB -> {target}")
    print(
        "Each picture: the held-out photograph, and what is left of it after encoding (1/4 of the"
    )
    print("size, 4 channels) and decoding.")


if __name__ == "__main__":
    run(demo, prog="python -m tvt_jax.demo")
