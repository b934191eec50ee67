"""`python -m tvt_jax.convert`: PyTorch weights to a model folder."""

from pathlib import Path
from typing import Literal

from tvt_jax.cli import run


def official(
    sd: Path,
    vae: Path,
    output: Path,
    unet: Path | None = None,
    tvt: Path | None = None,
    vae_config: Path | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> None:
    """Convert the authors' release to a model folder, LoRA merged.

    Args:
        sd: Stable Diffusion 2.1-base, a local diffusers folder.
        vae: the release's vae.ckpt.
        output: the model folder to write; must not exist yet.
        unet: the release's TVTUNet folder. Left out: SD's own levels are replicated.
        tvt: the release's model_TVT.pkl. Left out: the UNet before fine-tuning, a start for
            training.
        vae_config: config.json of the VAE, needed only if it has other than 32 norm groups.
        dtype: dtype of the written files.
    """
    from tvt_jax.weights.official import convert_official

    convert_official(sd, vae, output, unet, tvt, vae_config, dtype)
    print(f"wrote {output}")


if __name__ == "__main__":
    run({"official": official}, prog="python -m tvt_jax.convert")
