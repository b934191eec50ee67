"""The text that guides a run: tokens through Stable Diffusion's text encoder, or one embedding."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tvt_jax.text import make_text_encoder
from tvt_jax.weights.model_folder import load_network
from tvt_jax.weights.prompt_embeds import has_prompt_embeds, load_prompt_embeds
from tvt_jax.weights.tokenizer import load_tokenizer, tokenize


@dataclasses.dataclass(frozen=True)
class Text:
    """Where embeddings of prompts come from.

    Attributes:
      params: parameters of `encode`; host arrays.
      encode: pure function (params, batch) -> (prompts [B, N, C], negative prompt [1, N, C]).
      width: C.
      inputs: what it needs of a batch.
      tokenizer: folder of the tokenizer that makes it; empty: none is needed.
    """

    params: Any
    encode: Callable
    width: int
    inputs: tuple[str, ...]
    tokenizer: str


def load_text(sd: Path, negative_prompt: str, dtype: Any) -> Text:
    """Loads the text of a Stable Diffusion folder: its encoder, or the embeddings in its place.

    Args:
      sd: the folder.
      negative_prompt: encoded once; unused where the folder has embeddings.
      dtype: of the encoder's weights and computation.

    Raises:
      UserError: the folder is incomplete or damaged.
    """
    if has_prompt_embeds(sd):
        embeds = load_prompt_embeds(sd)

        def stored(params, batch):
            prompt = params["prompt"]
            shape = (batch["lr"].shape[0], *prompt.shape[1:])
            return jnp.broadcast_to(prompt, shape), params["negative"]

        params = {"prompt": embeds.prompt_embeds, "negative": embeds.negative_prompt_embeds}
        return Text(params, stored, embeds.prompt_embeds.shape[-1], (), "")
    network = load_network(sd / "text_encoder", "text_encoder", dtype, dtype)
    tokens = tokenize(
        load_tokenizer(sd / "tokenizer"), negative_prompt, network.config.max_position_embeddings
    )
    negative = np.asarray(make_text_encoder(network)(tokens))

    graph, width = network.graph, network.config.hidden_size  # not the weights: the loop has them

    def encode(params, batch):
        return nnx.merge(graph, params["encoder"])(batch["tokens"]), params["negative"]

    params = {"encoder": jax.device_get(network.params), "negative": negative}
    return Text(params, encode, width, ("tokens",), str(sd / "tokenizer"))
