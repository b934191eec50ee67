"""The CLIP tokenizer of a model folder."""

import os
from pathlib import Path

import numpy as np

from tvt_jax.errors import UserError


def load_tokenizer(folder: Path):
    """Loads the CLIP tokenizer of a model folder's `tokenizer/`.

    Raises:
      UserError: the folder is missing or incomplete.
    """
    # Keep transformers from looking for PyTorch, which it does not need to tokenize.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers import CLIPTokenizer

    if not (folder / "vocab.json").is_file() and not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder} is not a tokenizer folder: it has no vocab.json.")
    try:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises many kinds
        raise UserError(f"{folder} is not a readable CLIP tokenizer ({error}).") from error


def tokenize(tokenizer, texts: str | list[str], length: int) -> np.ndarray:
    """Turns texts into [B, length] int32 tokens, cut or padded; B is 1 for a single text."""
    tokens = tokenizer(
        texts, max_length=length, padding="max_length", truncation=True, return_tensors="np"
    )
    return np.atleast_2d(np.asarray(tokens["input_ids"], np.int32))
