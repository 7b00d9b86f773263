"""Attention in plain keras.ops with every feature: the oracle of all other kernels.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, G heads in a
group (N = K G), H head width.
"""

import math

from keras import ops

from keras_attn._typing import Nested, Size, Tensor
from keras_attn.ops import random
from keras_attn.ops.biases import Bias, PositionBias
from keras_attn.ops.masks import AttentionMask
from keras_attn.ops.numerics import softmax, widen


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: AttentionMask,
    bias: Bias | None,
    scale: float,
    logits_soft_cap: float | None,
    sink: Tensor | None,
    dropout: float,
    seed: Tensor | None,
    return_scores: bool,
    block_size: None,
) -> Nested:
    """See `keras_attn.ops.attention`; memory grows with T x S."""
    query_length, key_length = ops.shape(query)[1], ops.shape(key)[1]
    visible = mask.materialize(query_length, key_length)
    keys, queries = mask.visible_keys(), mask.visible_queries()
    rows = zeroed(ops.transpose(query * scale, (0, 2, 1, 3)), queries)  # [B, N, T, H]
    columns = zeroed(ops.transpose(key, (0, 2, 1, 3)), keys)  # [B, K, S, H]
    values = zeroed(ops.transpose(value, (0, 2, 1, 3)), keys)  # [B, K, S, Hv]
    logits = widen(_logits(rows, columns))
    if bias is not None:
        bias = _bias(bias, mask, query_length, key_length, logits.dtype)
        logits = logits + bias
    visible, some = visible_pairs(visible, bias, mask.may_empty_rows)
    if bias is not None:
        # A bias that hides may be no number, which would reach a gradient.
        logits = ops.where(visible, logits, 0.0)
    if logits_soft_cap is not None:
        logits = logits_soft_cap * ops.tanh(logits / logits_soft_cap)
    if visible is not None:
        # A row of nothing else keeps its logits; its weights are zeroed afterwards. Infinity is a
        # constant here, because tf2onnx multiplies what is none by 0 and 1.
        shown = visible if some is None else ops.logical_or(visible, ops.logical_not(some))
        logits = ops.where(shown, logits, -math.inf)
    weights = _softmax(logits, sink)
    dropped = random.dropout(weights, dropout, seed) if dropout else weights
    context = _context(ops.cast(dropped, value.dtype), values)
    if some is not None:
        context = ops.where(some, context, 0.0)
        weights = ops.where(some, weights, 0.0) if return_scores else None
    context = ops.transpose(context, (0, 2, 1, 3))  # [B, T, N, Hv]
    return (context, weights) if return_scores else context


def visible_pairs(visible: Tensor | None, bias: Tensor | None, may_empty_rows: bool) -> tuple:
    """Which query sees which key, and which query sees any; None where all do.

    A bias of minus infinity hides, as a mask does.

    Args:
        visible: what the mask allows, bool, or None.
        bias: float, or None.
        may_empty_rows: whether the mask may leave a query without a key.

    Returns:
        bool, broadcastable to `[B, N, T, S]` and `[B, N, T, 1]`.
    """
    if bias is not None:
        finite = ops.not_equal(bias, -math.inf)
        visible = finite if visible is None else ops.logical_and(visible, finite)
    elif not may_empty_rows:
        return visible, None
    return visible, ops.any(visible, axis=-1, keepdims=True)


def hidden(some: Tensor | None) -> Tensor:
    """The logit of a hidden key: its weight is exactly zero, whatever the others are.

    A row of nothing else stays a number; its weights are zeroed afterwards.
    """
    return -math.inf if some is None else ops.where(some, -math.inf, 0.0)


def zeroed(tensor: Tensor, visible: Tensor | None) -> Tensor:
    """Zeros at hidden positions of `[B, heads, L, width]`: NaN times a weight of zero is NaN."""
    return tensor if visible is None else ops.where(ops.expand_dims(visible, (1, 3)), tensor, 0.0)


def _logits(rows: Tensor, columns: Tensor) -> Tensor:
    batch, heads, length, width = ops.shape(rows)
    # Not `ops.matmul`, which rounds float64 to float32 on torch.
    # The second transposition is a flag of the product, and the first undoes that of
    # `ops.cache.read`, so that TensorFlow copies no cache.
    columns_last = ops.transpose(columns, (0, 1, 3, 2))  # [B, K, H, S]
    if heads == columns.shape[1]:
        return rows @ columns_last
    group = heads // columns.shape[1]
    rows = ops.reshape(rows, (batch, columns.shape[1], group * length, width))  # [B, K, G T, H]
    logits = rows @ columns_last
    return ops.reshape(logits, (batch, heads, length, ops.shape(columns)[2]))


def _context(weights: Tensor, values: Tensor) -> Tensor:
    batch, heads, length, keys = ops.shape(weights)
    if heads != values.shape[1]:
        group = heads // values.shape[1]
        weights = ops.reshape(weights, (batch, values.shape[1], group * length, keys))
    return ops.reshape(weights @ values, (batch, heads, length, values.shape[-1]))


def _bias(
    bias: Bias, mask: AttentionMask, query_length: Size, key_length: Size, dtype: str
) -> Tensor:
    if not isinstance(bias, PositionBias):
        return ops.cast(bias, dtype)
    query_positions = ops.arange(query_length, dtype="int32") + mask.query_offset
    return bias.materialize(query_positions, ops.arange(key_length, dtype="int32"), dtype)[None]


def _softmax(logits: Tensor, sink: Tensor | None) -> Tensor:
    if sink is not None:
        column = ops.cast(sink, logits.dtype)[:, None, None]  # [N, 1, 1]
        column = ops.broadcast_to(column, (*ops.shape(logits)[:3], 1))
        return softmax(ops.concatenate([logits, column], axis=-1))[..., :-1]
    return softmax(logits)
