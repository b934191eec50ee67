"""The text that guides the restoration, and its embedding."""

import os
from pathlib import Path

import jax
import numpy as np

from tvt_jax.errors import UserError
from tvt_jax.weights.model_folder import Network

# What the release appends to the tags of an image.
_QUALITY_WORDS = "clean, high-resolution, 8k"


def build_prompt(tags: list[str], text: str | None = None) -> str:
    """Joins tags and text as the release does.

    Args:
      tags: what is seen in the image; may be empty.
      text: the user's own text, used as it is after the tags; None for the fixed words.
    """
    if text is None:
        return f"{', '.join(tags)}, {_QUALITY_WORDS},"
    return ", ".join([*tags, text])


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


def tokenize(tokenizer, text: str, length: int) -> np.ndarray:
    """Turns text into [1, length] int32 tokens, cut or padded."""
    tokens = tokenizer(
        text, max_length=length, padding="max_length", truncation=True, return_tensors="np"
    )
    return np.asarray(tokens["input_ids"], np.int32)


def make_text_encoder(network: Network):
    """Returns a compiled function: tokens [B, N] -> embedding [B, N, hidden_size] float32."""

    @jax.jit
    def encode(params, tokens):
        return network(params)(tokens).astype("float32")

    return lambda tokens: encode(network.params, tokens)
