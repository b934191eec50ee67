"""Prompts and their embeddings, in training and at inference: from a text encoder, or stored.

Workers of the data pipeline build and tokenize prompts: Flax is imported when an encoder is loaded.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tvt_jax.config import QUALITY_WORDS
from tvt_jax.errors import UserError

NO_TEXT_ENCODER = (
    "this model has no text encoder, only one stored embedding: it takes neither a prompt nor tags."
)


def build_prompt(tags: Sequence[str], text: str | None = None) -> str:
    """Joins tags and text as the release does.

    Args:
      tags: what is seen in the image; may be empty.
      text: the user's own words, used as they are after the tags; None for the fixed words.

    Raises:
      TypeError: tags are something else; one text is not a sequence of them.
    """
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
        raise TypeError("`tags` must be a sequence of words.")
    if text is None:
        return f"{', '.join(tags)}, {QUALITY_WORDS},"
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


def tokenize(tokenizer, texts: str | list[str], length: int) -> np.ndarray:
    """Turns texts into [B, length] int32 tokens, cut or padded; B is 1 for a single text."""
    tokens = tokenizer(
        texts, max_length=length, padding="max_length", truncation=True, return_tensors="np"
    )
    return np.atleast_2d(np.asarray(tokens["input_ids"], np.int32))


@dataclasses.dataclass(frozen=True)
class Text:
    """Where the embeddings of prompts come from.

    Attributes:
      params: what `encode` takes: the encoder's parameters, or the stored embedding.
      encode: pure function (params, tokens [B, N] int32) -> [B, N, C] float32. A stored embedding
        is [1, N, C] whatever the tokens are, which may be None. Holds no weights.
      width: C.
      num_tokens: N of the tokens; 0 where the embedding is stored.
      tokenizer: folder of the tokenizer; None where the embedding is stored.
      stored_negative: [1, N, C] float32, the stored embedding of the negative prompt.
    """

    params: Any
    encode: Callable[[Any, Any], jax.Array]
    width: int
    num_tokens: int = 0
    tokenizer: Path | None = None
    stored_negative: np.ndarray | None = None

    @property
    def takes_prompts(self) -> bool:
        """Whether prompts are encoded; otherwise there is one stored embedding."""
        return self.tokenizer is not None

    def embed(self, prompt: str | None) -> jax.Array:
        """Returns the embedding [1, N, C] float32 of a prompt; None for the stored one.

        Raises:
          UserError: there is a prompt and nothing to encode it.
        """
        if not self.takes_prompts:
            if prompt is not None:
                raise UserError(NO_TEXT_ENCODER)
            return jnp.asarray(self.encode(self.params, None))
        return self._encode(self.params, tokenize(self._tokenizer, prompt, self.num_tokens))

    def unread(self, prompt: str) -> str:
        """Returns the end of a prompt that is not read, for it is longer than `num_tokens`."""
        tokens = self._tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
        if len(tokens) <= self.num_tokens:
            return ""
        # The last token that is read is the mark of the end.
        return self._tokenizer.decode(tokens[self.num_tokens - 1 :], skip_special_tokens=True)

    def embed_negative(self, prompt: str) -> np.ndarray:
        """Returns the embedding [1, N, C] float32 of a negative prompt, or the stored one."""
        if self.stored_negative is not None:
            return self.stored_negative
        return np.asarray(self.embed(prompt))

    @functools.cached_property
    def _tokenizer(self):
        return load_tokenizer(self.tokenizer)

    @functools.cached_property
    def _encode(self):
        return jax.jit(self.encode)


def load_text(folder: Path, dtype: Any) -> Text:
    """Loads the text conditioning of a model folder, or of Stable Diffusion's.

    Args:
      folder: has `prompt_embeds.safetensors`, or else `text_encoder/` and `tokenizer/`.
      dtype: of the encoder's weights and computation.

    Raises:
      UserError: the folder is incomplete or damaged.
    """
    from flax import nnx

    from tvt_jax.weights.model_folder import load_network
    from tvt_jax.weights.prompt_embeds import has_prompt_embeds, load_prompt_embeds

    if has_prompt_embeds(folder):
        embeds = load_prompt_embeds(folder)
        return Text(
            params=embeds.prompt_embeds,
            encode=lambda params, tokens: params,
            width=embeds.prompt_embeds.shape[-1],
            stored_negative=embeds.negative_prompt_embeds,
        )
    encoder = load_network(folder / "text_encoder", "text_encoder", dtype, dtype)
    load_tokenizer(folder / "tokenizer")  # report missing files now
    graph = encoder.graph  # `encode` must not hold the weights
    return Text(
        params=encoder.params,
        encode=lambda params, tokens: nnx.merge(graph, params)(tokens).astype("float32"),
        width=encoder.config.hidden_size,
        num_tokens=encoder.config.max_position_embeddings,
        tokenizer=folder / "tokenizer",
    )
