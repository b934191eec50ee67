"""`python -m tvt_jax.demo`: the idea of the paper in two minutes, without any download.

Trains the encoder of a small VAE-D4 on the bundled photographs (stage 2, tiny), and lays what it
makes of photographs that it never saw beside what its teacher makes of them, a VAE of the same
latent space that compresses each side 8 times instead of 4.
"""

import shutil
import time
from pathlib import Path

from tvt_jax.cli import run

_CONFIG = "configs/stage2.py:tiny"


def demo(output: Path = Path("outputs/demo")) -> None:
    """Train a small VAE on the bundled photographs and reconstruct held-out ones.

    Args:
        output: folder for the pictures and the run; an earlier demo in it is replaced.
    """
    import jax.numpy as jnp
    import numpy as np

    from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS, TINY_TEACHER
    from tvt_jax.compilation import enable_compilation_cache
    from tvt_jax.config import read_config
    from tvt_jax.evaluation.metrics import psnr
    from tvt_jax.evaluation.reconstruction import reconstruct
    from tvt_jax.inference.image_files import read_image, write_image
    from tvt_jax.training.loop import train
    from tvt_jax.weights.model_folder import load_network

    enable_compilation_cache()
    shutil.rmtree(output / "run", ignore_errors=True)
    config = read_config(_CONFIG)
    print(f"Stage 2: training the encoder of a small VAE-D4 for {config.steps} steps.")
    start = time.perf_counter()
    result = train(config, output / "run")
    print(f"trained in {time.perf_counter() - start:.0f} s")

    teacher, student = (
        load_network(folder, "vae", jnp.float32, jnp.float32) for folder in (TINY_TEACHER, result)
    )
    print("PSNR of photographs that were not trained on, teacher (8x) and VAE-D4 (4x):")
    for path in sorted(HELDOUT_PHOTOGRAPHS.glob("*.jpg")):
        image = read_image(path)
        versions = [reconstruct(vae, image) for vae in (teacher, student)]
        target = output / f"{path.stem}.png"
        write_image(target, np.concatenate([image, *versions], axis=1))
        before, after = (psnr(version, image) for version in versions)
        print(f"  {path.stem:26} {before:5.2f} dB  {after:5.2f} dB  {target}")
    print("Each picture: the photograph, the teacher's reconstruction, VAE-D4's.")


if __name__ == "__main__":
    run(demo, prog="python -m tvt_jax.demo")
