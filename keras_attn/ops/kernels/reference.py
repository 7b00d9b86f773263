"""Attention in plain keras.ops with every feature: the oracle of all other kernels.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, G heads in a
group (N = K G), H head width.
"""

from typing import Any

from keras import ops

from keras_attn.ops import random
from keras_attn.ops.biases import PositionBias
from keras_attn.ops.masks import AttentionMask

# Far below any real logit, so that its exponential is exactly zero, and finite, so that a row with
# nothing else in it stays a number.
MASKED = -1e30


def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    mask: AttentionMask,
    bias: Any,
    scale: float,
    dropout: float,
    seed: Any,
    return_scores: bool,
    block_size: None,
) -> Any:
    """See `keras_attn.ops.attention`; memory grows with T x S."""
    query_length, key_length = ops.shape(query)[1], ops.shape(key)[1]
    allowed = mask.materialize(query_length, key_length)
    logits = ops.cast(_scores(query * scale, key), "float32")
    if bias is not None:
        logits = logits + _bias(bias, mask, query_length, key_length)
    weights = _softmax(logits if allowed is None else logits + ops.where(allowed, 0.0, MASKED))
    dropped = random.dropout(weights, dropout, seed) if dropout else weights
    context = _context(ops.cast(dropped, value.dtype), value)
    if mask.may_empty_rows:
        some = ops.any(allowed, axis=-1, keepdims=True)  # [B or 1, N or 1, T or 1, 1]
        context = ops.where(ops.transpose(some, (0, 2, 1, 3)), context, 0.0)
        weights = ops.where(some, weights, 0.0) if return_scores else None
    return (context, weights) if return_scores else context


def _scores(query: Any, key: Any) -> Any:
    batch, length, heads, width = ops.shape(query)
    rows = ops.transpose(query, (0, 2, 1, 3))  # [B, N, T, H]
    # Two transpositions, not one: the first undoes that of `ops.cache.read`, the second becomes a
    # flag of the product, so that TensorFlow copies no cache.
    columns = ops.transpose(key, (0, 2, 1, 3))  # [B, K, S, H]
    columns = ops.transpose(columns, (0, 1, 3, 2))  # [B, K, H, S]
    if heads == key.shape[2]:
        return ops.matmul(rows, columns)
    group = heads // key.shape[2]
    rows = ops.reshape(rows, (batch, key.shape[2], group * length, width))  # [B, K, G T, H]
    return ops.reshape(ops.matmul(rows, columns), (batch, heads, length, ops.shape(key)[1]))


def _context(weights: Any, value: Any) -> Any:
    batch, heads, length, keys = ops.shape(weights)
    columns = ops.transpose(value, (0, 2, 1, 3))  # [B, K, S, Hv]
    if heads != value.shape[2]:
        group = heads // value.shape[2]
        weights = ops.reshape(weights, (batch, value.shape[2], group * length, keys))
    context = ops.matmul(weights, columns)
    context = ops.reshape(context, (batch, heads, length, value.shape[-1]))
    return ops.transpose(context, (0, 2, 1, 3))  # [B, T, N, Hv]


def _bias(bias: Any, mask: AttentionMask, query_length: Any, key_length: Any) -> Any:
    if not isinstance(bias, PositionBias):
        return ops.cast(bias, "float32")
    query_positions = ops.arange(query_length, dtype="int32") + mask.query_offset
    return bias.materialize(query_positions, ops.arange(key_length, dtype="int32"))[None]


def _softmax(logits: Any) -> Any:
    if logits.shape[-1] == 1:
        return ops.exp(logits - logits)  # Keras warns of a softmax over one
    return ops.softmax(logits, axis=-1)
