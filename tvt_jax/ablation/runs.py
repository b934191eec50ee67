"""The runs of an ablation: chains of training stages with equal seeds and budgets."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS
from tvt_jax.config import (
    DiffusionTrainConfig,
    RestorationTrainConfig,
    TrainConfig,
    VAETrainConfig,
    read_config,
)
from tvt_jax.errors import UserError
from tvt_jax.training.loop import train

_SAME_BUDGET = 0.01  # relative difference
_VALIDATIONS = 10  # points of the curve
_TO_COME = "the network of the stage before"


class Run(NamedTuple):
    """One row of the comparison.

    Attributes:
      name: what it is called, and its folder.
      configs: of its stages, in order; each takes the network that the one before trained.
      labels: the stages' configurations as they were given.
    """

    name: str
    configs: tuple[TrainConfig, ...]
    labels: tuple[str, ...]

    @property
    def restores(self) -> bool:
        """Whether the result is a model that restores; else it is a VAE."""
        return isinstance(self.configs[-1], RestorationTrainConfig)

    @property
    def budget(self) -> int:
        """Pixels of crops that all stages together see."""
        return sum(c.steps * c.data.batch_size * c.data.crop**2 for c in self.configs)


def read_runs(texts: Sequence[str], steps: int | None, photographs: str | None) -> list[Run]:
    """Reads the runs and checks that they compare.

    Args:
      texts: "NAME=CONFIG@STEPS+CONFIG@STEPS", where the name, the steps and the second stage are
        optional: "T1=configs/pretrain_vae.py:T1,tiny@100+configs/stage3.py:tiny".
      steps: of stages without a number; None: the configuration's own.
      photographs: folder to train on; None: the configurations' own.

    Raises:
      UserError: a configuration is wrong or lacks something, names are not unique, results are of
        two kinds, or budgets differ.
    """
    runs = [_read_run(text, steps, photographs) for text in texts]
    names = [run.name for run in runs]
    if len(runs) < 2 or len(set(names)) < len(names):
        raise UserError(
            f"`runs` must be two at least, with different names: {', '.join(names)}; give names "
            "as NAME=configs/stage2.py:tiny."
        )
    if len({run.restores for run in runs}) > 1:
        kinds = [f"{run.name} a {'model' if run.restores else 'VAE'}" for run in runs]
        raise UserError(f"`runs` end with different networks: {', '.join(kinds)}.")
    budgets = [run.budget for run in runs]
    if max(budgets) > (1 + _SAME_BUDGET) * min(budgets):
        seen = [f"{run.name} {run.budget / 1e6:.3g}" for run in runs]
        raise UserError(
            f"`runs` have different budgets, in millions of pixels (steps x batch x crop x crop): "
            f"{', '.join(seen)}; give steps as CONFIG@STEPS."
        )
    for run in runs:
        for config in run.configs:
            config.validate()
    return runs


def _read_run(text: str, steps: int | None, photographs: str | None) -> Run:
    name, given, chain = text.rpartition("=")
    configs, labels = [], []
    for stage in chain.split("+"):
        source, _, number = stage.partition("@")
        if number and not number.isdecimal():
            raise UserError(f"`runs` {stage}: {number} is not a number of steps.")
        config = read_config(source)
        config.steps = int(number) if number else steps or config.steps
        _set_data(config, photographs)
        if configs:
            _chain(config, configs[-1], source)
        configs.append(config)
        labels.append(f"{source}@{config.steps}")
    if isinstance(configs[-1], DiffusionTrainConfig):
        raise UserError(f"`runs` {text} ends with a diffusion UNet, which has no quality alone.")
    if not given:
        path, _, variant = source.partition(":")
        name = "-".join([Path(path).stem, *filter(None, variant.split(","))])
    return Run(name, tuple(configs), tuple(labels))


def _set_data(config: TrainConfig, photographs: str | None) -> None:
    """Gives all runs the same data, and a curve of validation."""
    if photographs is not None:
        config.data.train = photographs
    every = max(1, config.steps // _VALIDATIONS)
    # Perceptual distances are measured at the end.
    config.validation = dataclasses.replace(
        config.validation,
        folder=config.validation.folder or str(HELDOUT_PHOTOGRAPHS),
        every=every,
        lpips=False,
    )
    config.checkpoint_every = min(config.checkpoint_every, every)


def _chain(config: TrainConfig, before: TrainConfig, source: str) -> None:
    """Names the place of the network that the stage before will have trained."""
    if not isinstance(before, VAETrainConfig):
        raise UserError(f"`runs`: {source} follows a stage that trains no VAE.")
    if isinstance(config, VAETrainConfig):
        config.init_vae = _TO_COME
    else:
        config.vae = _TO_COME


def train_run(run: Run, seed: int, folder: Path, quiet: bool = False) -> Path:
    """Trains all stages of a run, or what is left of them.

    Args:
      run: of `read_runs`.
      seed: of weights, data and noise of every stage.
      folder: of the stages' folders, `1`, `2`, ...
      quiet: no progress bar and no notes.

    Returns: the folder of the result.
    Raises: as `train`; SystemExit when a signal ended it, saved and to be resumed.
    """
    result = None
    for number, config in enumerate(run.configs, 1):
        workdir = folder / str(number)
        config = dataclasses.replace(config, seed=seed)
        for field in ("init_vae", "vae"):
            if getattr(config, field, None) == _TO_COME:
                config = dataclasses.replace(config, **{field: str(result)})
        result = workdir / ("model/vae" if isinstance(config, VAETrainConfig) else "model")
        if not result.is_dir():  # it appears when it is complete
            train(config, workdir, quiet)
            jax.clear_caches()  # the programs of a stage hold memory, and no other stage has them
    return result
