"""SD 2.1's CLIP text encoder: 23 layers of OpenCLIP ViT-H, pre-norm, causal.

Source: transformers `CLIPTextModel`.
"""

import jax.numpy as jnp
from flax import nnx

from tvt_jax.config import TextEncoderConfig
from tvt_jax.models.attention import dot_product_attention
from tvt_jax.models.layers import InitKeys, LayerNorm, Linear, normal

_EMBEDDING_INIT = normal(0.02)  # CLIP's


def _quick_gelu(x):
    return x * nnx.sigmoid(1.702 * x)


class CLIPAttention(nnx.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: TextEncoderConfig, **precision):
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.k_proj = Linear(width, width, **precision)
        self.v_proj = Linear(width, width, **precision)
        self.q_proj = Linear(width, width, **precision)
        self.out_proj = Linear(width, width, **precision)

    def __call__(self, x):
        """Maps [B, N, C] to [B, N, C]."""
        q, k, v = (
            proj(x).reshape(*x.shape[:2], self.heads, -1)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(dot_product_attention(q, k, v, causal=True).reshape(x.shape))


class CLIPMLP(nnx.Module):
    """Two linear layers with the configured activation between."""

    def __init__(self, config: TextEncoderConfig, **precision):
        self.hidden_act = config.hidden_act
        self.fc1 = Linear(config.hidden_size, config.intermediate_size, **precision)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size, **precision)

    def __call__(self, x):
        """Maps [B, N, C] to [B, N, C]."""
        x = self.fc1(x)
        x = _quick_gelu(x) if self.hidden_act == "quick_gelu" else nnx.gelu(x, approximate=False)
        return self.fc2(x)


class CLIPEncoderLayer(nnx.Module):
    """Attention and MLP, each after its norm and with a residual."""

    def __init__(self, config: TextEncoderConfig, **precision):
        self.self_attn = CLIPAttention(config, **precision)
        self.layer_norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps, **precision)
        self.mlp = CLIPMLP(config, **precision)
        self.layer_norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps, **precision)

    def __call__(self, x):
        """Maps [B, N, C] to [B, N, C]."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPTextEmbeddings(nnx.Module):
    """Token embedding plus learned position embedding."""

    def __init__(self, config: TextEncoderConfig, **precision):
        self.token_embedding = nnx.Embed(
            config.vocab_size, config.hidden_size, embedding_init=_EMBEDDING_INIT, **precision
        )
        self.position_embedding = nnx.Embed(
            config.max_position_embeddings,
            config.hidden_size,
            embedding_init=_EMBEDDING_INIT,
            **precision,
        )

    def __call__(self, tokens):
        """Maps integer tokens [B, N] to [B, N, C]."""
        positions = self.position_embedding(jnp.arange(tokens.shape[1]))
        return self.token_embedding(tokens) + positions[None]


class CLIPEncoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: TextEncoderConfig, **precision):
        self.layers = nnx.List(
            CLIPEncoderLayer(config, **precision) for _ in range(config.num_hidden_layers)
        )

    def __call__(self, x):
        """Maps [B, N, C] to [B, N, C]."""
        for layer in self.layers:
            x = layer(x)
        return x


class CLIPTextModel(nnx.Module):
    """Text embedding for the UNet's cross-attention.

    Args:
      config: size of the network.
      dtype: dtype of the computation.
      param_dtype: dtype of the weights.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        config: TextEncoderConfig,
        *,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs: InitKeys,
    ):
        precision = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.config = config
        self.embeddings = CLIPTextEmbeddings(config, **precision)
        self.encoder = CLIPEncoder(config, **precision)
        self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps, **precision)

    def __call__(self, tokens):
        """Encodes tokens.

        Args:
          tokens: [B, N] integers below `vocab_size`, N at most `max_position_embeddings`.

        Returns: [B, N, hidden_size], the normalised last hidden state.
        """
        return self.final_layer_norm(self.encoder(self.embeddings(tokens)))
