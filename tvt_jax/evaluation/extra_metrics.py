"""Learned metrics of the paper that only pyiqa has, measured in an environment of the user's own.

pyiqa is for noncommercial use and wants PyTorch, so nothing of it is here: its process gets paths
of images and answers with values, see `extra_metrics_process.py`.
"""

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tvt_jax.errors import UserError
from tvt_jax.evaluation.metric_names import Metric
from tvt_jax.progress import progress

_HUB = "hub/pyiqa"  # below TORCH_HOME
_CLIP = Path("~/.cache/clip/ViT-B-32.pt")  # A-FINE's, whatever TORCH_HOME is
_QALIGN = "hub/models--q-future--one-align"  # below HF_HOME


class _Extra(NamedTuple):
    metric: Metric
    files: tuple[str, ...]  # below the folder of weights


_AFINE = (f"{_HUB}/afine.pth",)
EXTRA_METRICS = {
    "afine_fr": _Extra(Metric("AFINE-FR", 4, False), _AFINE),
    "afine_nr": _Extra(Metric("AFINE-NR", 4, False), _AFINE),
    "clipiqa": _Extra(Metric("CLIPIQA", 4, True), ("hub/clip/RN50.pt",)),
    "musiq": _Extra(Metric("MUSIQ", 2, True), (f"{_HUB}/musiq_koniq_ckpt-e95806b9.pth",)),
    "qalign": _Extra(Metric("Q-Align", 3, True), ()),
    "topiq_nr": _Extra(Metric("TOPIQ", 4, True), (f"{_HUB}/cfanet_nr_koniq_res50-9a73138b.pth",)),
    "hyperiqa": _Extra(
        Metric("HyperIQA", 4, True), (f"{_HUB}/HyperIQA-resnet50-koniq10k-c96c41b1.pth",)
    ),
}


class ExtraMetrics:
    """Measures images by pyiqa's metrics.

    Attributes:
      metrics: names, keys of `EXTRA_METRICS`.
      weights: SHA-256 of their files, by name.
      versions: of pyiqa and what it runs on, once `measure` has run.
      notes: why values are missing.
    """

    def __init__(
        self, metrics: Sequence[str] = (), python: Path | None = None, weights: Path | None = None
    ):
        """Checks that everything is there; nothing is ever downloaded.

        Args:
          metrics: names, keys of `EXTRA_METRICS`.
          python: interpreter of the environment that has pyiqa.
          weights: TORCH_HOME for it, with `hub/pyiqa` and `hub/clip`. None: as the environment has
            it, or ~/.cache/torch.

        Raises:
          UserError: a metric is unknown, or the interpreter or files of weights are missing.
        """
        self.metrics, self._python = tuple(metrics), python
        self._home = weights or Path(os.environ.get("TORCH_HOME") or "~/.cache/torch").expanduser()
        self.weights: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.notes: list[str] = []
        unknown = [name for name in metrics if name not in EXTRA_METRICS]
        if unknown:
            raise UserError(
                f"`extra_metrics`: {', '.join(unknown)} is unknown; choose from "
                f"{', '.join(EXTRA_METRICS)}."
            )
        if not metrics:
            return
        if python is None or not python.is_file():
            raise UserError(
                f"`extra_python` {python or ''} must be the Python of an environment with pyiqa, "
                "for example venv/bin/python."
            )
        files = list(dict.fromkeys(path for name in metrics for path in self._files(name)))
        missing = [str(path) for path in files if not path.exists()]
        if missing:
            raise UserError(
                f"`extra_metrics` need files that are missing: {', '.join(missing)}; they are in "
                "chaofengc/IQA-PyTorch-Weights and q-future/one-align on Hugging Face, CLIP's in "
                "its release."
            )
        self.weights = {path.name: _sha256(path) for path in files if path.is_file()}

    def _files(self, name: str) -> Iterator[Path]:
        for file in EXTRA_METRICS[name].files:
            yield self._home / file
        if name.startswith("afine"):
            yield _CLIP.expanduser()
        if name == "qalign":
            home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
            yield Path(home).expanduser() / _QALIGN

    def measure(
        self, pairs: Sequence[tuple[Path, Path]], quiet: bool = False
    ) -> list[dict[str, float | None]]:
        """Measures images, all in one process.

        Args:
          pairs: an image and its reference each, of one size.
          quiet: no progress bar.

        Returns: value by metric of each pair; None where pyiqa failed, which `notes` tells.
        Raises:
          UserError: the process cannot import pyiqa, or died.
        """
        values: list[dict[str, float | None]] = [dict.fromkeys(self.metrics) for _ in pairs]
        if not self.metrics:
            return values
        job = {"metrics": self.metrics, "pairs": [[str(f.absolute()) for f in p] for p in pairs]}
        for answer in progress(
            self._answers(job), "pyiqa", quiet, total=len(pairs) * len(self.metrics)
        ):
            if "versions" in answer:
                self.versions = answer["versions"]
            elif "value" in answer:
                values[answer["pair"]][answer["metric"]] = answer["value"]
            elif "metric" in answer:
                note = f"no {answer['metric']}: {answer['error']}"
                self.notes += [note] if note not in self.notes else []
            else:
                raise UserError(f"`extra_python` {self._python}: {answer['error']}")
        return values

    def _answers(self, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the process says, line by line."""
        script = Path(__file__).with_name("extra_metrics_process.py")
        environment = {
            **os.environ, "TORCH_HOME": str(self._home.absolute()), "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
            try:
                process = subprocess.Popen(
                    [str(self._python), str(script)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                    text=True, encoding="utf-8", env=environment,
                )  # fmt: skip
            except OSError as error:
                raise UserError(
                    f"`extra_python` {self._python} does not start ({error.strerror})."
                ) from error
            with process:
                try:
                    json.dump(job, process.stdin)
                    process.stdin.close()
                except OSError:  # it died; its status tells
                    pass
                yield from map(json.loads, process.stdout)
            if process.returncode:
                errors.seek(0)
                last = (errors.read().strip().splitlines() or ["nothing said"])[-1]
                raise UserError(
                    f"`extra_python` {self._python} ended with status {process.returncode} "
                    f"({last})."
                )


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
