"""The text that guides the restoration, and its embedding."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tvt_jax.config import QUALITY_WORDS
from tvt_jax.errors import UserError
from tvt_jax.models.networks import Network
from tvt_jax.weights.model_folder import load_network
from tvt_jax.weights.prompt_embeds import has_prompt_embeds, load_prompt_embeds
from tvt_jax.weights.tokenizer import load_tokenizer, tokenize

NO_TEXT_ENCODER = (
    "this model has no text encoder, only one stored embedding: it takes no --prompt and no tags."
)


def build_prompt(tags: list[str], text: str | None = None) -> str:
    """Joins tags and text as the release does.

    Args:
      tags: what is seen in the image; may be empty.
      text: the user's own text, used as it is after the tags; None for the fixed words.
    """
    if text is None:
        return f"{', '.join(tags)}, {QUALITY_WORDS},"
    return ", ".join([*tags, text])


def make_text_encoder(network: Network):
    """Returns a compiled function: tokens [B, N] -> embedding [B, N, hidden_size] float32."""

    @jax.jit
    def encode(params, tokens):
        return network(params)(tokens).astype("float32")

    return lambda tokens: encode(network.params, tokens)


class EncodedText:
    """Embeddings of prompts by a text encoder, each computed once.

    Attributes:
      width: channels of an embedding.
    """

    takes_text = True

    def __init__(self, encoder: Network, tokenizer: Any):
        self.width = encoder.config.hidden_size
        self._tokenizer, self._encode = tokenizer, make_text_encoder(encoder)
        self._max_tokens = encoder.config.max_position_embeddings
        self._embeddings: dict[str, jax.Array] = {}

    def embed(self, tags: list[str], text: str | None) -> jax.Array:
        """Returns the embedding [1, tokens, width] float32 of `build_prompt(tags, text)`."""
        prompt = build_prompt(tags, text)
        if prompt not in self._embeddings:
            tokens = tokenize(self._tokenizer, prompt, self._max_tokens)
            self._embeddings[prompt] = self._encode(tokens)
        return self._embeddings[prompt]


class StoredText:
    """The one embedding of a model that has no text encoder.

    Attributes:
      width: channels of the embedding.
    """

    takes_text = False

    def __init__(self, embedding: np.ndarray):
        self.width = embedding.shape[-1]
        self._embedding = jnp.asarray(embedding)

    def embed(self, tags: list[str], text: str | None) -> jax.Array:
        """Returns the embedding [1, tokens, width] float32.

        Raises:
          UserError: there are tags or a text.
        """
        if tags or text is not None:
            raise UserError(NO_TEXT_ENCODER)
        return self._embedding


def load_text(model: Path, **precision: Any) -> EncodedText | StoredText:
    """Loads what a model folder says to its UNet: a stored embedding, else a text encoder.

    Args:
      model: the model folder.
      precision: `dtype` and `param_dtype` of the text encoder.

    Raises:
      UserError: the folder is incomplete or damaged.
    """
    if has_prompt_embeds(model):
        return StoredText(load_prompt_embeds(model).prompt_embeds)
    encoder = load_network(model / "text_encoder", "text_encoder", **precision)
    return EncodedText(encoder, load_tokenizer(model / "tokenizer"))
