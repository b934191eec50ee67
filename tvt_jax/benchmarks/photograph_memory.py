"""Time and peak memory of `infer` on photographs of growing size, each in a process of its own."""

import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tvt_jax.bundled import DEGRADED_PHOTOGRAPH
from tvt_jax.images import read_image, write_image

_SCALE = 4


def photograph_memory_report(
    megapixels: tuple[float, ...], options: list[str], address_space: float | None
) -> str:
    """Measures `python -m tvt_jax.infer` on one input for each size.

    Args:
      megapixels: of the outputs, 4:3.
      options: of the command, beside its files.
      address_space: GiB that the process may map, as `ulimit -v` sets it, and not the output.

    Returns: a Markdown table: what the command said of tiles, seconds, those of the CPU, and peak
      resident memory.
    """
    rows = [
        "| output | px | how | s | CPU s | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for number in megapixels:
            source, target = Path(folder, "in.png"), Path(folder, "out.png")
            width = round(math.sqrt(number * 1e6 * 4 / 3) / _SCALE)
            height = round(width * 3 / 4)
            write_image(source, _photograph(height, width))
            output = height * width * _SCALE**2 * 3
            limit = None if address_space is None else int(address_space * 2**30) + output
            files = ["--input", str(source), "--output", str(target)]
            status, lines, seconds, usage = _run(
                [sys.executable, "-m", "tvt_jax.infer", *files, *options], limit
            )
            tiled = [line for line in lines if " tiles of " in line]
            how = tiled[0].removeprefix("note: ").partition(";")[0] if tiled else "whole"
            if status:
                how = f"exit status {status}: {lines[-1] if lines else ''}"
            rows.append(
                f"| {number:g} MP | {width * _SCALE}x{height * _SCALE} | {how} | {seconds:.0f} "
                f"| {usage.ru_utime + usage.ru_stime:.0f} | {usage.ru_maxrss / 2**10:.0f} |"
            )
            print(rows[-1], file=sys.stderr, flush=True)
            target.unlink(missing_ok=True)
    return "\n".join(rows)


def _photograph(height: int, width: int) -> np.ndarray:
    """A bundled photograph, mirrored over and over."""
    image = read_image(DEGRADED_PHOTOGRAPH)
    return np.pad(
        image,
        ((0, max(0, height - image.shape[0])), (0, max(0, width - image.shape[1])), (0, 0)),
        mode="symmetric",
    )[:height, :width]


def _run(command: list[str], address_space: int | None) -> tuple:
    """Exit status, lines printed, seconds, what the process used."""

    def limit():
        if address_space is not None:
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as printed:
        child = subprocess.Popen(command, stdout=printed, stderr=printed, preexec_fn=limit)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        lines = printed.read().splitlines()
    return child.returncode, lines, time.monotonic() - start, usage
