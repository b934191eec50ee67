"""`make gpu-report`: what no accelerator has measured yet, in at most half an hour on one GPU.

Each section is a process of its own with a time limit, so that one that fails does not cost the
others. The report is written anew after each of them: `report.md` for BENCHMARKS.md, `report.json`
with all figures. No network is used. `--small` tries the whole on a CPU, with small networks.
"""

import argparse
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tvt_jax.files import atomic_file, write_json

TOTAL = 30 * 60  # seconds
BENCH, INFER, STEP = (
    "tvt_jax.bench",
    "tests.comparisons.infer_speed",
    "tests.comparisons.step_speed",
)


class Section(NamedTuple):
    """A part of the report.

    Attributes:
      title: what is measured.
      command: module and arguments.
      limit: seconds.
      figures: whether it writes them, by its option --json.
    """

    title: str
    command: tuple[str, ...]
    limit: float
    figures: bool = True


# By their worth: the last ones are left out where time is short.
FULL = (
    Section("Devices", ("tvt_jax.doctor",), 120, False),
    Section("Restoration, 512 px, beside PyTorch: batch 8", (INFER, "--batch-sizes", "8"), 400),
    *(
        Section(
            f"Stage 3, 512 px, beside PyTorch: batch {size}",
            (STEP, "--batch-sizes", str(size), "--runs", *runs),
            limit,
        )
        for size, runs, limit in (
            (4, ("jax", "pytorch", "pytorch-compiled"), 600),
            (16, ("jax", "pytorch"), 400),
            (1, ("jax", "pytorch"), 300),
        )
    ),
    *(
        Section(
            f"{stage}, 512 px: batch 16",
            (BENCH, "step", "--config", f"configs/{stage}.py", "--batch-size", "16"),
            240,
        )
        for stage in ("stage1", "stage2")
    ),
    Section("Restoration, 512 px, beside PyTorch: batch 1", (INFER, "--batch-sizes", "1"), 300),
    Section(
        "Restoration, 512 px, the VAE in float32: batch 8",
        (INFER, "--batch-sizes", "8", "--vae-dtype", "float32", "--runs", "jax", "pytorch"),
        240,
    ),
    *(
        Section(f"Tagger: batch 8, {dtype}", (BENCH, "tagger", "--dtype", dtype), 120)
        for dtype in ("float32", "bfloat16")
    ),
    Section(
        "Photographs by the bundled model",
        (BENCH, "photographs", "--megapixels", "4", "24"),
        240,
        False,
    ),
    Section(
        "The paper's systems at full size (Tables 4, 5, 7)",
        (BENCH, "complexity", "--measure", "TVT,S1,S4,S5,V1,V2,S2,S3"),
        600,
    ),
)  # fmt: skip
_SMALL = ("--small", "--batch-sizes", "1", "--rounds", "1", "--runs", "jax", "pytorch")
SMALL = (
    Section("Devices", ("tvt_jax.doctor",), 120, False),
    Section("Restoration", (INFER, *_SMALL, "--size", "64", "--dtype", "float32"), 300),
    Section(
        "Stage 2",
        (BENCH, "step", "--config", "configs/stage2.py:tiny", "--batch-size", "2", "--rounds", "1"),
        300,
    ),
    Section("Stage 3", (STEP, *_SMALL), 900),
)


class Outcome(NamedTuple):
    """What became of a section.

    Attributes:
      section: it.
      seconds: it took.
      problem: why it failed; None where it did not.
      printed: to its stdout.
      figures: that it wrote.
    """

    section: Section
    seconds: float
    problem: str | None
    printed: str
    figures: dict | None


def run_section(section: Section, limit: float, folder: Path) -> Outcome:
    """Runs a section for at most `limit` seconds; its errors go to a log in `folder`."""
    written = folder / "figures.json"
    written.unlink(missing_ok=True)
    command = [sys.executable, "-m", *section.command]
    command += ["--json", str(written)] * section.figures
    name = "".join(c if c.isalnum() else "_" for c in section.title.lower())
    log = folder / f"{name}.log"
    start, problem = time.monotonic(), None
    with tempfile.TemporaryFile("w+") as printed, open(log, "w") as errors:
        child = subprocess.Popen(command, stdout=printed, stderr=errors, start_new_session=True)
        try:
            if status := child.wait(limit):
                problem = f"exit status {status}; {log.name} has the reason"
        except subprocess.TimeoutExpired:
            problem = f"ended after {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its own children, too
            child.wait()
        printed.seek(0)
        text = printed.read().rstrip()
    figures = json.loads(written.read_text()) if written.is_file() else None
    written.unlink(missing_ok=True)
    return Outcome(section, time.monotonic() - start, problem, text, figures)


def make_report(sections: Sequence[Section], folder: Path, total: float = TOTAL) -> list[Outcome]:
    """Runs the sections in turn and writes the report after each.

    Args:
      folder: of the report.
      total: seconds that all may take together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end, outcomes = time.monotonic() + total, []
    for section in sections:
        left = end - time.monotonic()
        if left < 1:
            outcomes.append(Outcome(section, 0.0, "left out: no time was left", "", None))
        else:
            print(f"{section.title} ...", file=sys.stderr, flush=True)
            outcomes.append(run_section(section, min(section.limit, left), folder))
        _write(outcomes, folder)
    return outcomes


def _write(outcomes: Sequence[Outcome], folder: Path) -> None:
    lines = [f"# GPU report, {datetime.date.today()}"]
    for outcome in outcomes:
        command = f"python -m {' '.join(outcome.section.command)}"
        lines += [
            "",
            f"## {outcome.section.title}",
            "",
            f"`{command}`, {outcome.seconds:.0f} s",
            "",
        ]
        if outcome.problem:
            lines += [f"Failed: {outcome.problem}.", ""]
        if outcome.printed.startswith("|"):
            lines.append(outcome.printed)
        elif outcome.printed:
            lines += ["```", outcome.printed, "```"]
    with atomic_file(folder / "report.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    sections = [
        {
            "title": o.section.title,
            "command": o.section.command,
            "seconds": o.seconds,
            "problem": o.problem,
            "figures": o.figures,
        }
        for o in outcomes
    ]
    write_json(folder / "report.json", {"date": str(datetime.date.today()), "sections": sections})


def main() -> None:
    """Exit status 1 if any section failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu_report"))
    parser.add_argument("--small", action="store_true", help="small networks, for a CPU")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which ends the section's processes
    outcomes = make_report(SMALL if options.small else FULL, options.output)
    print(f"wrote {options.output}/report.md")
    if failed := [outcome.section.title for outcome in outcomes if outcome.problem]:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
