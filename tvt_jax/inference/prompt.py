"""The text that guides the restoration, and its embedding."""

import jax

from tvt_jax.config import QUALITY_WORDS
from tvt_jax.weights.model_folder import Network


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
