"""`python -m tvt_jax.infer`: upscale photographs."""

import sys
from pathlib import Path
from typing import Literal

from tvt_jax.cli import run
from tvt_jax.errors import UserError


def infer(
    model: Path,
    input: list[Path],
    output: Path,
    scale: float = 4,
    prompt: str | None = None,
    color_fix: Literal["adain", "wavelet", "none"] = "adain",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    posterior: Literal["mean", "sample"] = "mean",
    seed: int = 0,
    skip_existing: bool = False,
    quiet: bool = False,
) -> None:
    """Upscale photographs.

    Args:
        model: model folder, as `python -m tvt_jax.convert` writes it.
        input: pictures (PNG, JPEG, WebP, BMP, TIFF), or folders that are searched to the bottom.
        output: a file for one input file, otherwise a folder that mirrors the inputs.
        scale: output size over input size, 1 to 8; the model is trained for 4.
        prompt: text to guide the restoration, used as it is.
        color_fix: take the colours of the input: adain matches mean and deviation, wavelet takes
            low frequencies.
        dtype: precision of the UNet and the text encoder; auto is bfloat16 on an accelerator.
        posterior: mean of the encoder's distribution (repeatable), or a sample as the release.
        seed: of that sample.
        skip_existing: leave out pictures whose output is there already.
        quiet: print nothing but errors.
    """
    from tvt_jax.inference.image_files import plan_jobs, read_image, write_image

    jobs = plan_jobs(input, output)
    skipped = [job for job in jobs if skip_existing and job.target.is_file()]
    jobs = [job for job in jobs if job not in skipped]
    if skipped and not quiet:
        print(f"skipped {len(skipped)} that exist already")
    if not jobs:
        return

    from tvt_jax.compilation import enable_compilation_cache
    from tvt_jax.inference.upscaler import Upscaler
    from tvt_jax.progress import progress

    enable_compilation_cache()
    upscaler = Upscaler.from_folder(model, dtype)
    failed = []
    for job in progress(jobs, "upscaling", quiet=quiet or len(jobs) == 1):
        try:
            image = read_image(job.source)
            result = upscaler(image, scale, prompt, color_fix, posterior, seed)
            write_image(job.target, result)
        except UserError as error:
            if len(jobs) == 1:
                raise
            print(f"error: {error}", file=sys.stderr)
            failed.append(job.source)
            continue
        if not quiet:
            height, width = result.shape[:2]
            print(f"{job.source} -> {job.target} ({width}x{height})")
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} pictures failed, the others are done.")


if __name__ == "__main__":
    run(infer, prog="python -m tvt_jax.infer")
