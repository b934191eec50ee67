"""`python -m tvt_jax.prepare`: folders of images to shards for training."""

import functools
import os
import sys
from pathlib import Path
from typing import Literal

from tvt_jax.cli import run

_NAMED_FAILURES = 20


def prepare(
    input: list[str],
    output: str,
    paired_lr: tuple[str, ...] = (),
    pairs: Literal["", "realsr", "drealsr", "realce"] = "",
    crop: int = 0,
    min_side: int = 64,
    max_flat: float = 1.0,
    resize: int = 0,
    max_left_out: float = 0.5,
    tag_with: Path | None = None,
    licence: str = "",
    shard_size: int = 100,
    jobs: int = 0,
    runner: str = "",
    runner_options: str = "",
    quiet: bool = False,
) -> None:
    """Write folders of images as ArrayRecord shards with a manifest, for training.

    Every image is decoded once, so that training meets no damaged one. Equal files are stored
    once. After an interruption, the same command goes on where it stopped.

    Args:
        input: folders of images, searched to the bottom; local or gs://.
        output: folder of the shards; give it to --config.data.train.
        paired_lr: folders of real LR images, one for each input, under the same relative paths.
        pairs: the inputs are a public data set of real pairs in this layout (factor 4, its training
            half).
        crop: cut images into tiles of this side, px, stored as PNG: reading a crop of a large
            image is then cheap. 0 stores the files as they are.
        min_side: leave out images whose shorter side is less, px.
        max_flat: leave out images (or tiles) of which a larger share is flat; try 0.5.
        resize: shrink larger images until their shorter side is this, px (the paper's FFHQ: 512);
            0 shrinks none.
        max_left_out: fail when a larger share of the images is damaged or left out.
        tag_with: folder of a tagger; its tags are stored with the images.
        licence: note on what may be done with the images, for the manifest.
        shard_size: images in a shard.
        jobs: processes that work at once; 0 is one for each processor.
        runner: let Apache Beam do the work with this runner, such as DirectRunner.
        runner_options: Beam's own options, in one text: "--direct_num_workers=4 ...".
        quiet: print nothing but errors.
    """
    from tvt_jax.data.preparation.prepare import Settings, prepare_shards
    from tvt_jax.data.preparation.runners import run_in_processes, run_in_threads, run_on_beam
    from tvt_jax.data.preparation.shard_writer import Filters, write_shard
    from tvt_jax.errors import UserError

    settings = Settings(
        input=tuple(input),
        paired_lr=paired_lr,
        pairs=pairs,
        filters=Filters(crop, min_side, max_flat, resize),
        shard_size=shard_size,
        tagger="" if tag_with is None else str(tag_with),
        licence=licence,
    )
    settings.validate()
    if jobs < 0:
        raise UserError(f"`jobs` {jobs} must not be negative.")
    jobs = jobs or os.cpu_count() or 1
    if runner_options and not runner:
        raise UserError("`runner_options` needs `runner`.")
    if runner and tag_with is not None:
        raise UserError("`tag_with` does not run on Beam: leave `runner` out.")

    write = write_shard
    if runner:
        run_tasks = run_on_beam(runner, runner_options)
    elif tag_with is not None:
        from tvt_jax.inference.tagging import load_tagger

        write = functools.partial(write_shard, tag_images=load_tagger(tag_with))
        run_tasks = run_in_threads(jobs, quiet)
    else:
        run_tasks = run_in_processes(jobs, quiet)
    manifest = prepare_shards(output, settings, run_tasks, write, max_left_out)
    if not quiet:
        _print(output, manifest)


def _print(output: str, manifest: dict) -> None:
    for entry in manifest["failed"][:_NAMED_FAILURES]:
        print(f"failed: {entry['name']}: {entry['reason']}", file=sys.stderr)
    if len(manifest["failed"]) > _NAMED_FAILURES:
        print("failed: the manifest names the others", file=sys.stderr)
    for conversion, count in manifest["converted"].items():
        print(f"{conversion}: {count} images")
    counts = manifest["images"]
    print(
        f"{counts['found']} images: {counts['stored']} stored, {counts['failed']} failed, "
        f"{counts['filtered']} left out by filters, {counts['duplicates']} duplicates"
    )
    print(
        f"wrote {manifest['record_count']} records in {len(manifest['shards'])} shards, "
        f"{manifest['bytes'] / 2**20:.1f} MiB, to {output}"
    )


if __name__ == "__main__":
    run(prepare, prog="python -m tvt_jax.prepare")
