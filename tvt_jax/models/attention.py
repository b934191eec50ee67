"""Scaled dot-product attention: one function, several ways to compute it.

At the latent resolution of VAE-D4 a 512 px image has 16,384 tokens. Their score matrix would take
5 GiB for five heads in float32, so every backend used for long sequences works in blocks.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from tvt_jax.models.target import target_device

# Up to this many scores per head (8 MiB) the plain formula is as fast as any: self-attention of
# 1,448 tokens, or cross-attention of 16,384 tokens to 77 of text.
_PLAIN_SCORES = 1 << 21
# Its matrix holds the scores of all heads and samples of a device: up to 512 MiB.
_PLAIN_SCORES_OF_ALL = 1 << 27
# Heads that the blockwise form computes at a time on an accelerator, which needs parallel work. On
# a CPU a single head fills the cores and its blocks stay in the cache.
_HEADS_AT_ONCE = 64
_QUERY_BLOCK = 256
_KEY_BLOCK = 512
# The Pallas TPU kernel works on multiples of 128 tokens, and is fast in large blocks.
_FLASH_LENGTH_MULTIPLE = 128
_FLASH_BLOCK = 512

BACKENDS = ("auto", "plain", "blockwise", "cudnn", "pallas")


def dot_product_attention(query, key, value, *, causal=False, backend="auto"):
    """Computes softmax(query key^T / sqrt(D)) value.

    Args:
      query: [B, Nq, heads, D] float32, bfloat16 or float16.
      key, value: [B, Nk, heads, D], same dtype.
      causal: position i sees keys 0..i only. Always computed by the plain formula (the text
        encoder's 77 tokens).
      backend: "plain" builds the score matrix; "blockwise" is the online softmax in XLA, for any
        platform; "cudnn" is cuDNN's flash attention (NVIDIA, 16 bit); "pallas" is the TPU flash
        kernel; "auto" picks by device, number of scores, dtype and width of the heads.

    Returns: [B, Nq, heads, D] in the dtype of `query`. The softmax is float32 in every backend.
    Raises: ValueError for an unknown backend, or `causal` with another backend than plain.
    """
    if backend not in BACKENDS:
        raise ValueError(f"attention backend {backend!r} is not one of {', '.join(BACKENDS)}")
    if backend == "auto":
        backend = "plain" if causal else suitable_backend(query.shape, key.shape[1], query.dtype)
    if causal and backend != "plain":
        raise ValueError("causal attention is implemented by the plain backend only")
    if backend == "plain":
        return _plain(query, key, value, causal)
    kernel = {"cudnn": _cudnn_flash, "pallas": _pallas_flash, "blockwise": _blockwise}[backend]
    return _on_each_device(kernel, query, key, value)


def suitable_backend(query_shape, num_keys, dtype):
    """The backend that "auto" picks for queries [B, Nq, heads, D] and `num_keys` keys."""
    batch, num_queries, heads, width = query_shape
    if jax.export.is_symbolic_dim(num_queries) or jax.export.is_symbolic_dim(num_keys):
        # A program for any length and platform; kernels are for one platform.
        return "blockwise" if jax.export.is_symbolic_dim(num_keys) else "plain"
    platform, compute_capability = target_device()
    scores = num_queries * num_keys
    if platform == "none" or scores <= _PLAIN_SCORES and _fits_plain(batch, heads * scores):
        return "plain"
    if platform == "gpu" and _fits_cudnn(dtype, width, compute_capability):
        return "cudnn"
    return "pallas" if platform == "tpu" else "blockwise"


def _fits_plain(batch, scores_per_sample):
    """Whether the score matrix of a device's samples is small enough to be built."""
    if jax.export.is_symbolic_dim(batch):
        return True
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.size  # that share the samples, or the queries of one
    return batch * scores_per_sample // devices <= _PLAIN_SCORES_OF_ALL


def _fits_cudnn(dtype, width, compute_capability):
    """Whether cuDNN's flash attention takes such heads; jax refuses what does not fit."""
    if dtype not in (jnp.bfloat16, jnp.float16) or not compute_capability:
        return False
    capability = tuple(int(part) for part in compute_capability.split("."))
    return (
        capability >= (8, 0) and width % 8 == 0 and width <= (256 if capability >= (9, 0) else 128)
    )


def _plain(query, key, value, causal):
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores / math.sqrt(query.shape[-1])
    if causal:
        visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        scores = jnp.where(visible, scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def _blockwise(query, key, value):
    """Online softmax, block by block of queries and keys, one head at a time on a CPU.

    The forward pass keeps the logarithm of each row's normaliser, and the backward pass recomputes
    the scores from it block by block, so neither direction holds more than one block of scores.
    """
    batch, num_queries, heads, width = query.shape
    scale = 1 / math.sqrt(width)
    # [B, N, heads, D] -> [B * heads, N, D]
    flat = [jnp.moveaxis(x, 2, 1).reshape(batch * heads, -1, width) for x in (query, key, value)]
    at_once = None
    if target_device()[0] != "cpu" and not jax.export.is_symbolic_dim(batch):
        at_once = _HEADS_AT_ONCE
    out = jax.lax.map(
        lambda qkv: _attend_one_head(qkv[0] * scale, qkv[1], qkv[2]),
        tuple(flat),
        batch_size=at_once,
    )
    return jnp.moveaxis(out.reshape(batch, heads, num_queries, width), 1, 2)


def _blocks(x, size):
    """[N, D] -> [blocks, at most size, D], zero-padded at the end."""
    length, width = x.shape
    if not jax.export.is_symbolic_dim(length):
        size = min(size, length)
    count = (length + size - 1) // size
    return jnp.pad(x, ((0, count * size - length), (0, 0))).reshape(count, size, width)


def _scores(query, key, index, num_keys):
    """Scores [q, k] float32 of one block pair; keys beyond `num_keys` (padding) get -inf."""
    scores = jnp.einsum("qd,kd->qk", query, key, preferred_element_type=jnp.float32)
    if not jax.export.is_symbolic_dim(num_keys) and num_keys % key.shape[0] == 0:
        return scores
    position = index * key.shape[0] + jnp.arange(key.shape[0])
    return jnp.where(position[None, :] < num_keys, scores, -jnp.inf)


@jax.custom_vjp
def _attend_one_head(query, key, value):
    return _attend_forward(query, key, value)[0]


def _attend_forward(query, key, value):
    key_blocks, value_blocks = _blocks(key, _KEY_BLOCK), _blocks(value, _KEY_BLOCK)
    indices = jnp.arange(key_blocks.shape[0])

    def one_query_block(q):
        def step(carry, block):
            running_max, total, weighted = carry
            k, v, index = block
            scores = _scores(q, k, index, key.shape[0])
            new_max = jnp.maximum(running_max, scores.max(axis=1))
            weights = jnp.exp(scores - new_max[:, None])
            shrink = jnp.exp(running_max - new_max)
            total = total * shrink + weights.sum(axis=1)
            product = jnp.einsum(
                "qk,kd->qd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
            )
            return (new_max, total, weighted * shrink[:, None] + product), None

        start = (
            jnp.full(q.shape[0], -jnp.inf, jnp.float32),
            jnp.zeros(q.shape[0], jnp.float32),
            jnp.zeros(q.shape, jnp.float32),
        )
        (top, total, weighted), _ = jax.lax.scan(step, start, (key_blocks, value_blocks, indices))
        return (weighted / total[:, None]).astype(q.dtype), top + jnp.log(total)

    out, log_total = jax.lax.map(one_query_block, _blocks(query, _QUERY_BLOCK))
    out = out.reshape(-1, query.shape[1])[: query.shape[0]]
    return out, (query, key, value, out, log_total)


def _attend_backward(residuals, grad_out):
    query, key, value, out, log_total = residuals
    key_blocks, value_blocks = _blocks(key, _KEY_BLOCK), _blocks(value, _KEY_BLOCK)
    indices = jnp.arange(key_blocks.shape[0])
    # d softmax: each row's gradient of the scores sums to zero; `row_mean` is what to subtract.
    row_mean = jnp.einsum("qd,qd->q", grad_out, out, preferred_element_type=jnp.float32)
    row_mean_blocks = _blocks(row_mean[:, None], _QUERY_BLOCK)[..., 0]

    def one_query_block(carry, block):
        q, log_z, grad, mean = block

        def step(dq, key_block):
            k, v, index = key_block
            weights = jnp.exp(_scores(q, k, index, key.shape[0]) - log_z[:, None])
            dv = jnp.einsum("qk,qd->kd", weights, grad, preferred_element_type=jnp.float32)
            dweights = jnp.einsum("qd,kd->qk", grad, v, preferred_element_type=jnp.float32)
            dscores = weights * (dweights - mean[:, None])
            dk = jnp.einsum("qk,qd->kd", dscores, q, preferred_element_type=jnp.float32)
            dq = dq + jnp.einsum("qk,kd->qd", dscores, k, preferred_element_type=jnp.float32)
            return dq, (dk, dv)

        dq, (dk, dv) = jax.lax.scan(
            step, jnp.zeros(q.shape, jnp.float32), (key_blocks, value_blocks, indices)
        )
        return (carry[0] + dk, carry[1] + dv), dq

    zeros = jnp.zeros(key_blocks.shape, jnp.float32)
    blocks = (
        _blocks(query, _QUERY_BLOCK), log_total, _blocks(grad_out, _QUERY_BLOCK), row_mean_blocks,
    )  # fmt: skip
    (dk, dv), dq = jax.lax.scan(one_query_block, (zeros, zeros), blocks)

    def unblock(x, like):
        return x.reshape(-1, like.shape[1])[: like.shape[0]].astype(like.dtype)

    return unblock(dq, query), unblock(dk, key), unblock(dv, value)


_attend_one_head.defvjp(_attend_forward, _attend_backward)


def _on_each_device(kernel, query, key, value):
    """Computes each device's share of the samples, or of the queries where it is one image.

    The compiler cannot partition a kernel or a loop over blocks, so they are mapped over the mesh
    of `jax.set_mesh`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return kernel(query, key, value)
    length = query.shape[1]
    if query.shape[0] % mesh.size == 0:
        queries = keys = PartitionSpec(mesh.axis_names)
    else:
        queries, keys = PartitionSpec(None, mesh.axis_names), PartitionSpec()
        query = jnp.pad(query, ((0, 0), (0, -length % mesh.size), (0, 0), (0, 0)))
    attend = jax.shard_map(
        kernel,
        mesh=mesh,
        in_specs=(queries, keys, keys),
        out_specs=queries,
        check_vma=False,  # kernels do not say how their output varies over devices
    )
    return attend(query, key, value)[:, :length]


def _cudnn_flash(query, key, value):
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def _pallas_flash(query, key, value):
    """The TPU flash kernel of jax.experimental.pallas; lengths are padded and masked."""
    from jax.experimental.pallas.ops.tpu import flash_attention as flash

    def block(length):
        """Multiples of it are what a length is padded to."""
        whole = length + -length % _FLASH_LENGTH_MULTIPLE
        return min(_FLASH_BLOCK, whole)

    def padded(x):
        pad = -x.shape[1] % block(x.shape[1])
        return jnp.moveaxis(jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))), 2, 1)

    def segments(x):
        # Real tokens are segment 1 and padding is segment 0; a token sees its own segment only.
        length = x.shape[1] + -x.shape[1] % block(x.shape[1])
        real = (jnp.arange(length) < x.shape[1]).astype(jnp.int32)
        return jnp.broadcast_to(real, (x.shape[0], length))

    q, k = block(query.shape[1]), block(key.shape[1])
    out = flash.flash_attention(
        padded(query),
        padded(key),
        padded(value),
        segment_ids=flash.SegmentIds(q=segments(query), kv=segments(key)),
        sm_scale=1 / math.sqrt(query.shape[-1]),
        block_sizes=flash.BlockSizes(
            block_b=1, block_q=q, block_k_major=k, block_k=k,
            block_q_major_dkv=q, block_q_dkv=q, block_k_major_dkv=k, block_k_dkv=k,
            block_q_dq=q, block_k_major_dq=k, block_k_dq=k,
        ),
    )  # fmt: skip
    return jnp.moveaxis(out, 1, 2)[:, : query.shape[1]]
