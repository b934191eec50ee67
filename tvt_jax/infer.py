"""`python -m tvt_jax.infer`: upscale photographs."""

import sys
from pathlib import Path
from typing import Literal

from tvt_jax.cli import run
from tvt_jax.errors import UserError


def infer(
    input: list[Path],
    output: Path,
    model: Path | None = None,
    scale: float = 4,
    prompt: str | None = None,
    color_fix: Literal["adain", "wavelet", "none"] = "adain",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    posterior: Literal["mean", "sample"] = "mean",
    seed: int = 0,
    skip_existing: bool = False,
    no_tags: bool = False,
    tags: Path | None = None,
    quiet: bool = False,
) -> None:
    """Upscale photographs.

    Args:
        input: pictures (PNG, JPEG, WebP, BMP, TIFF), or folders that are searched to the bottom.
        output: a file for one input file, otherwise a folder that mirrors the inputs.
        model: model folder, as `python -m tvt_jax.convert` or stage 3 writes it. Default: the small
            model that is bundled.
        scale: output size over input size, 1 to 8; the model is trained for 4.
        prompt: text to guide the restoration, used as it is; tags, when on, go before it.
        color_fix: take the colours of the input: adain matches mean and deviation, wavelet takes
            low frequencies.
        dtype: precision of the UNet and the text encoder; auto is bfloat16 on an accelerator.
        posterior: mean of the encoder's distribution (repeatable), or a sample as the release.
        seed: of that sample.
        skip_existing: leave out pictures whose output is there already.
        no_tags: do not look for what is seen in the picture, even if the model has a tagger.
        tags: JSON file of tags, as `python -m tvt_jax.tag` writes it. Pictures that it lists are
            not tagged again (change it by hand to your liking), the others are added.
        quiet: print nothing but errors.
    """
    if no_tags and tags is not None:
        raise UserError("--no-tags and --tags exclude each other.")
    from tvt_jax.inference.image_files import plan_jobs, read_image, write_image

    jobs = plan_jobs(input, output)
    skipped = [job for job in jobs if skip_existing and job.target.is_file()]
    jobs = [job for job in jobs if job not in skipped]
    if skipped and not quiet:
        print(f"skipped {len(skipped)} that exist already")
    if not jobs:
        return

    from tvt_jax.bundled import SMALL_MODEL
    from tvt_jax.inference.tag_files import TagFile
    from tvt_jax.inference.upscaler import Upscaler
    from tvt_jax.progress import progress
    from tvt_jax.text import NO_TEXT_ENCODER

    file = None if tags is None else TagFile(tags)
    if model is None:
        model = SMALL_MODEL
        if not quiet:
            print("no --model: the small bundled model restores; it is made for CPUs.")
    upscaler = Upscaler.from_folder(model, dtype)
    if not upscaler.takes_text and (prompt is not None or file is not None):
        raise UserError(NO_TEXT_ENCODER)
    if file is not None and not upscaler.has_tagger:
        _check_complete(file, [job.source for job in jobs])
    failed = []
    for job in progress(jobs, "upscaling", quiet=quiet or len(jobs) == 1):
        try:
            image = read_image(job.source)
            seen = [] if no_tags else _tags(upscaler, image, scale, job.source, file)
            result = upscaler(image, scale, prompt, color_fix, posterior, seed, seen)
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
            if seen:
                print(f"  tags: {', '.join(seen)}")
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} pictures failed, the others are done.")


def _tags(upscaler, image, scale: float, source: Path, file) -> list[str]:
    """Tags of a picture: from the file, if it lists the picture, or from the tagger."""
    if file is not None and source in file:
        return file[source]
    tags = upscaler.tag(image, scale)
    if file is not None:
        file.add(source, tags)
        file.write()
    return tags


def _check_complete(file, sources: list[Path]) -> None:
    missing = [str(source) for source in sources if source not in file]
    if missing:
        raise UserError(
            f"--tags {file.path} does not list {', '.join(missing)}, and the model has no tagger; "
            "add them, or make a tagger with `python -m tvt_jax.convert tagger`."
        )


if __name__ == "__main__":
    run(infer, prog="python -m tvt_jax.infer")
