"""`python -m tvt_jax.infer`: upscale photographs."""

import contextlib
import functools
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tvt_jax.cli import print_error, print_line, run, with_options
from tvt_jax.errors import UserError
from tvt_jax.images.formats import DEFAULT_ENCODING, Encoding
from tvt_jax.inference.options import DEFAULTS, RestorationOptions


def infer(
    input: list[Path],
    output: Path,
    model: Path | None = None,
    restoration: Annotated[RestorationOptions, tyro.conf.OmitArgPrefixes] = DEFAULTS,
    encoding: Annotated[Encoding, tyro.conf.OmitArgPrefixes] = DEFAULT_ENCODING,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    lora_scale: float = 1.0,
    devices: Literal["all"] | int = 1,
    skip_existing: bool = False,
    all_frames: bool = False,
    no_tags: bool = False,
    tags: Path | None = None,
    quiet: bool = False,
) -> None:
    """Upscale photographs.

    Args:
        input: images (PNG, JPEG, WebP, BMP, TIFF, ...), or folders that are searched to the bottom.
        output: a file for one input file, otherwise a folder that mirrors the inputs. Images keep
            their format, depth, transparency, colour profile and metadata.
        model: model folder, as `python -m tvt_jax.convert` or stage 3 writes it, or owner/name of
            one on Hugging Face. Default: the small model that is bundled.
        restoration: how images are restored.
        encoding: how they are written.
        dtype: precision of the networks; auto is bfloat16 where the device has it, else float32.
            float16 is for GPUs without bfloat16 (T4), with the VAE in float32.
        lora_scale: strength of the adapters, where the model keeps them apart: 0 to leave them out,
            1 as they were trained.
        devices: GPUs or TPU cores that share each image, each some of its rows.
        skip_existing: leave out images whose output is there already.
        all_frames: do all frames of animations and all pages, instead of the first.
        no_tags: do not look for what is seen in the image, even if the model has a tagger.
        tags: JSON file of tags, as `python -m tvt_jax.tag` writes it. Images that it lists are not
            tagged again (change it by hand to your liking), the others are added.
        quiet: print nothing but errors.
    """
    if no_tags and tags is not None:
        raise UserError("--no-tags and --tags exclude each other.")
    from tvt_jax.inference.jobs import plan_jobs

    def note(line: str) -> None:
        if not quiet:
            print_line(f"note: {with_options(line)}")

    planned = plan_jobs(input, output, encoding, note)
    jobs = [job for job in planned if not (skip_existing and job.done())]
    if len(jobs) < len(planned) and not quiet:
        print(f"skipped {len(planned) - len(jobs)} that exist already")
    if not jobs:
        return

    from tvt_jax.bundled import SMALL_MODEL
    from tvt_jax.files import claimed
    from tvt_jax.inference.tag_files import TagFile
    from tvt_jax.inference.upscaler import Upscaler
    from tvt_jax.inference.whole_files import upscale_file
    from tvt_jax.progress import Progress
    from tvt_jax.text import NO_TEXT_ENCODER

    file = None if tags is None else TagFile(tags)
    if model is None:
        model = SMALL_MODEL
        if not quiet:
            print("no --model: the small bundled model restores; it is made for CPUs.")
    upscaler = Upscaler.from_folder(model, dtype, _first_devices(devices), lora_scale)
    if not upscaler.takes_prompts and (restoration.prompt is not None or file is not None):
        raise UserError(NO_TEXT_ENCODER)
    if file is not None and not upscaler.has_tagger:
        _check_complete(file, [job.source for job in jobs])
    failed, said = [], set()
    with Progress(quiet) as show, file or contextlib.nullcontext():
        tiles = functools.partial(show, "tiles")
        upscale = functools.partial(upscaler.upscale, report=note, progress=tiles)
        for number, job in enumerate(jobs):
            if len(jobs) > 1:
                show("images", number, len(jobs))
            given = () if no_tags else None
            if file is not None and job.source in file:
                given = file[job.source]
            try:
                with claimed(job.target) as ours:
                    if not ours or (skip_existing and job.done()):
                        note(f"{job.target} is another process's work")
                        continue
                    written = upscale_file(
                        upscale, job.source, job.target, job.format, restoration, encoding, given,
                        all_frames,
                    )  # fmt: skip
            except (UserError, MemoryError, OSError) as error:
                error = _naming(job.source, error)
                if len(jobs) == 1:
                    raise error from None
                print_error(error)
                failed.append(job.source)
                continue
            if file is not None and given is None:
                file.add(job.source, list(written.tags))
            if not quiet:
                _print_result(job, written)
            for line in written.notes:
                if line not in said:
                    note(f"{job.source}: {line} (said once)")
                said.add(line)
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} images failed, the others are done.")


def _first_devices(number: Literal["all"] | int) -> list | None:
    """So many devices of this machine; None for the default one."""
    import jax

    devices = jax.local_devices()
    if number == "all":
        return devices
    if not 1 <= number <= len(devices):
        raise UserError(f"`devices` {number}: there are {len(devices)}.")
    return None if number == 1 else devices[:number]


def _naming(source: Path, error: Exception) -> UserError:
    """What went wrong with an image, as an error that names it."""
    if not isinstance(error, UserError):
        return UserError(f"{source} failed: {error!r}.")
    return error if str(source) in str(error) else UserError(f"{source}: {error}")


def _print_result(job, written) -> None:
    width, height = written.size
    print_line(f"{job.source} -> {job.target} ({width}x{height})")
    if written.tags:
        print_line(f"  tags: {', '.join(written.tags)}")


def _check_complete(file, sources: list[Path]) -> None:
    missing = [str(source) for source in sources if source not in file]
    if missing:
        raise UserError(
            f"--tags {file.path} does not list {', '.join(missing)}, and the model has no tagger; "
            "add them, or make a tagger with `python -m tvt_jax.convert tagger`."
        )


if __name__ == "__main__":
    run(infer, prog="python -m tvt_jax.infer")
