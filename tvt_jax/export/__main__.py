"""`python -m tvt_jax.export`: a model as a program that runs without this package."""

from pathlib import Path
from typing import Literal

from tvt_jax.bundled import SMALL_MODEL
from tvt_jax.cli import run
from tvt_jax.hub import local_model


def export(
    output: Path,
    format: Literal["saved_model", "stablehlo"],
    model: Path = SMALL_MODEL,
    dtype: Literal["float32", "bfloat16"] = "float32",
    color_fix: Literal["adain", "wavelet", "lab", "none"] = "adain",
) -> None:
    """Export a model for images of any size, on CPUs, NVIDIA GPUs and TPUs.

    Args:
        output: the new folder.
        format: saved_model for TensorFlow (needs the extra [export]), stablehlo for JAX and other
            runtimes.
        model: the model folder, or owner/name of one on the Hugging Face hub. Left out: the small
            bundled model.
        dtype: of the UNet and the text encoder; the VAE is float32.
        color_fix: built into the program.
    """
    from tvt_jax.export.exporting import export_model

    export_model(local_model(model), output, format, dtype, color_fix)
    print(f"wrote {output}")


if __name__ == "__main__":
    run(export, prog="python -m tvt_jax.export")
