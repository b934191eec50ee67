"""RAM, the Recognize Anything Model: which of its classes an image shows.

A Swin encoder turns the image into tokens; a query for each class attends to them in two layers of
cross-attention, and one shared linear layer gives the logit of the class. RAM's captioning (a text
encoder and a text decoder) is left out.
Source: Zhang et al. 2023; recognize-anything `ram/models/ram.py` and `bert.py` (mode "tagging").
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from tvt_jax.config import TaggerConfig
from tvt_jax.models.attention import dot_product_attention
from tvt_jax.models.layers import Identity, InitKeys, LayerNorm, Linear, Table, normal
from tvt_jax.models.swin import SwinTransformer


class LabelQueries(NamedTuple):
    """What the head computes from the classes alone, without an image.

    Attributes:
      embeddings: [K, hidden_size], the input of the head's first layer.
      queries: [K, hidden_size], their query projection in that layer.
    """

    embeddings: jax.Array
    queries: jax.Array


class BertCrossSelfAttention(nnx.Module):
    """The projections of cross-attention; BERT calls them `self`."""

    def __init__(self, config: TaggerConfig, **precision):
        self.heads = config.num_attention_heads
        self.query = Linear(config.hidden_size, config.hidden_size, **precision)
        self.key = Linear(config.projection_dim, config.hidden_size, **precision)
        self.value = Linear(config.projection_dim, config.hidden_size, **precision)

    def __call__(self, queries, image):
        """Maps projected queries [B, K, C] and image [B, N, P] to [B, K, C]."""
        q, k, v = (
            x.reshape(*x.shape[:2], self.heads, -1)
            for x in (queries, self.key(image), self.value(image))
        )
        return dot_product_attention(q, k, v).reshape(queries.shape)


class BertOutput(nnx.Module):
    """Linear layer, residual, norm: how BERT ends attention and feed-forward."""

    def __init__(self, in_features: int, config: TaggerConfig, **precision):
        self.dense = Linear(in_features, config.hidden_size, **precision)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps, **precision)

    def __call__(self, x, residual):
        """Maps x [B, K, in] and residual [B, K, C] to [B, K, C]."""
        return self.LayerNorm(self.dense(x) + residual)


class BertCrossAttention(nnx.Module):
    """Cross-attention to the image, with residual and norm."""

    def __init__(self, config: TaggerConfig, **precision):
        self.self = BertCrossSelfAttention(config, **precision)
        self.output = BertOutput(config.hidden_size, config, **precision)

    def __call__(self, x, queries, image):
        """Maps x and its query projection, each [B, K, C], and image [B, N, P] to [B, K, C]."""
        return self.output(self.self(queries, image), x)


class BertIntermediate(nnx.Module):
    """The wide layer of the feed-forward part, with the exact GELU."""

    def __init__(self, config: TaggerConfig, **precision):
        self.dense = Linear(config.hidden_size, config.intermediate_size, **precision)

    def __call__(self, x):
        """Maps [B, K, C] to [B, K, intermediate_size]."""
        return nnx.gelu(self.dense(x), approximate=False)


class BertLayer(nnx.Module):
    """Cross-attention and feed-forward, each followed by its norm. No self-attention."""

    def __init__(self, config: TaggerConfig, **precision):
        self.crossattention = BertCrossAttention(config, **precision)
        self.intermediate = BertIntermediate(config, **precision)
        self.output = BertOutput(config.intermediate_size, config, **precision)

    def __call__(self, x, queries, image):
        """Maps x and its query projection, each [B, K, C], and image [B, N, P] to [B, K, C]."""
        x = self.crossattention(x, queries, image)
        return self.output(self.intermediate(x), x)

    def project(self, x):
        """The query projection of x, same shape."""
        return self.crossattention.self.query(x)


class BertEncoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: TaggerConfig, **precision):
        self.layer = nnx.List(
            BertLayer(config, **precision) for _ in range(config.num_hidden_layers)
        )

    def __call__(self, labels: LabelQueries, image):
        """Maps the classes and an image [B, N, P] to [B, K, hidden_size]."""
        batch = image.shape[0]
        x, queries = (jnp.broadcast_to(a[None], (batch, *a.shape)) for a in labels)
        for index, layer in enumerate(self.layer):
            x = layer(x, queries if index == 0 else layer.project(x), image)
        return x


class TaggingHead(nnx.Module):
    """The query decoder; RAM keeps it in a BERT without embeddings."""

    def __init__(self, config: TaggerConfig, **precision):
        self.encoder = BertEncoder(config, **precision)


class RAM(nnx.Module):
    """The tagger.

    Args:
      config: size of the network.
      dtype: dtype of the computation; norms and softmax are float32 inside in any case.
      param_dtype: dtype of the weights.
      rngs: source of the initial weights.
    """

    def __init__(
        self, config: TaggerConfig, *, dtype=jnp.float32, param_dtype=jnp.float32, rngs: InitKeys
    ):
        precision = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.visual_encoder = SwinTransformer(config, **precision)
        self.image_proj = Linear(config.stage_widths[-1], config.projection_dim, **precision)
        self.label_embed = Table(
            normal(0.02)(rngs.params(), (config.num_classes, config.projection_dim), param_dtype)
        )
        self.wordvec_proj = (
            Linear(config.projection_dim, config.hidden_size, **precision)
            if config.hidden_size != config.projection_dim
            else Identity()
        )
        self.tagging_head = TaggingHead(config, **precision)
        self.fc = Linear(config.hidden_size, 1, **precision)

    # Full float32 products, whatever the program's default is: TF32 and bfloat16 passes flip tags
    # that are close to their threshold.

    def label_queries(self) -> LabelQueries:
        """Computes what depends on the classes only, once for all images."""
        with jax.default_matmul_precision("highest"):
            embeddings = nnx.relu(self.wordvec_proj(self.label_embed[...]))
            return LabelQueries(embeddings, self.tagging_head.encoder.layer[0].project(embeddings))

    def __call__(self, images, labels: LabelQueries | None = None):
        """Scores every class.

        Args:
          images: [B, S, S, 3] float, normalised, S = `image_size`.
          labels: the result of `label_queries`; None computes it.

        Returns: logits [B, K] float32, K = `num_classes`.
        """
        labels = self.label_queries() if labels is None else labels
        with jax.default_matmul_precision("highest"):
            image = self.image_proj(self.visual_encoder(images))
            return self.fc(self.tagging_head.encoder(labels, image))[..., 0].astype(jnp.float32)
