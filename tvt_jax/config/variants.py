"""Configuration files: reading one, and the variants that it offers."""

import runpy
from collections.abc import Collection
from pathlib import Path

from tvt_jax.config.training import TrainConfig
from tvt_jax.errors import UserError


def read_config(text: str) -> TrainConfig:
    """Reads a configuration as `train` does, for other commands.

    Args:
      text: path of the file, and after a colon the variant: "configs/stage2.py:tiny".

    Raises:
      UserError: the file or the variant does not exist.
    """
    path, _, variant = text.partition(":")
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist; run the command in the project's folder.")
    try:
        return runpy.run_path(path)["get_config"](variant)
    except ValueError as error:
        raise UserError(f"{text}: {error}.") from error


def parse_variant(
    variant: str, ablations: Collection[str] = (), sizes: Collection[str] = ("small", "tiny")
) -> tuple[str, str]:
    """Reads what follows the colon of a configuration: an ablation, a size, both or nothing.

    Args:
      variant: words with commas: "V1,tiny".
      ablations, sizes: words that there are; one of each can be given.

    Returns: (ablation, size); "" for one that is not given.
    Raises:
      ValueError: a word is unknown, or two exclude each other.
    """
    words = [word for word in variant.split(",") if word]
    unknown = [word for word in words if word not in (*ablations, *sizes)]
    if unknown:
        raise ValueError(
            f"unknown variant {', '.join(unknown)}; there are {', '.join((*sizes, *ablations))}"
        )
    chosen = []
    for group in (ablations, sizes):
        given = [word for word in group if word in words]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        chosen += given or [""]
    return tuple(chosen)
