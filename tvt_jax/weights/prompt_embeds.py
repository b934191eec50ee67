"""Stored embeddings in place of a text encoder: `prompt_embeds.safetensors` of a model folder.

A network that always gets the same text needs no text encoder: the file holds the encoder's output.
Its keys are the names of diffusers' arguments.
"""

import dataclasses
from pathlib import Path

import numpy as np

from tvt_jax.errors import UserError
from tvt_jax.weights.tensor_files import Tensors, open_tensors, save_tensors

FILE = "prompt_embeds.safetensors"


@dataclasses.dataclass(frozen=True)
class PromptEmbeds:
    """Embeddings of the prompt and of the negative prompt.

    Attributes:
      prompt_embeds: [1, N, C] float32, C being the UNet's `cross_attention_dim`.
      negative_prompt_embeds: likewise; guidance leads away from it.
    """

    prompt_embeds: np.ndarray
    negative_prompt_embeds: np.ndarray


def has_prompt_embeds(folder: Path) -> bool:
    """Whether a model folder has stored embeddings."""
    return (folder / FILE).is_file()


def load_prompt_embeds(folder: Path) -> PromptEmbeds:
    """Reads the stored embeddings of a model folder.

    Raises:
      UserError: the file is missing or damaged, or does not hold two embeddings of one shape.
    """
    tensors = open_tensors(folder / FILE)
    names = [field.name for field in dataclasses.fields(PromptEmbeds)]
    problems = [f"{name} is missing" for name in names if name not in tensors]
    problems += [f"{name} is unknown" for name in tensors if name not in names]
    present = {name: tensors.shape(name) for name in names if name in tensors}
    problems += [
        f"{name} is {list(shape)} and not [1, tokens, width]"
        for name, shape in present.items()
        if len(shape) != 3 or shape[0] != 1 or 0 in shape
    ]
    if not problems and len(set(present.values())) > 1:
        problems.append(" and ".join(f"{name} is {list(s)}" for name, s in present.items()))
    if not problems:
        problems = _wrong_values(tensors)
    if problems:
        raise UserError(f"{folder / FILE} does not hold prompt embeddings: {'; '.join(problems)}.")
    return PromptEmbeds(*(tensors[name].astype(np.float32) for name in names))


def save_prompt_embeds(folder: Path, embeds: PromptEmbeds) -> None:
    """Writes the stored embeddings of a model folder, float32.

    Args:
      folder: made if needed.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    arrays = dataclasses.asdict(embeds)
    save_tensors(folder / FILE, {n: np.asarray(a, np.float32) for n, a in arrays.items()})


def _wrong_values(tensors: Tensors) -> list[str]:
    problems = []
    for name in tensors:
        array = tensors[name]
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            problems.append(f"{name} is {array.dtype} and not floating-point")
        elif not np.isfinite(array.astype(np.float32)).all():
            problems.append(f"{name} is not finite")
    return problems
