"""One tile of the matrix of logits on TensorFlow: its weights, its context, its gradients.

Letters: B batch, T query length, N query heads, G heads in a group, H head width, Hv value width;
in a tile: k key/value heads, r rows, s keys.
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from keras_attn._typing import Size, Tensor
from keras_attn.backend.tensorflow import size
from keras_attn.ops import random
from keras_attn.ops.biases import Bias
from keras_attn.ops.kernels.plan_tf import Plan, Span, key_range, product_type
from keras_attn.ops.kernels.reference import hidden, visible_pairs
from keras_attn.ops.kernels.terms_tf import MASKED, Place, bias_in, rows_with_a_key


class Tile(NamedTuple):
    """A block of query rows of one span, with the keys that they may see."""

    span: Span
    index: Size
    place: Place
    query: Tensor  # [k, G r, H]
    key: Tensor  # [k, s, H]
    value: Tensor  # [k, s, Hv]
    tanh: Tensor | None  # of the logits over their cap, [k, G, r, s]; None where they have none
    weights: Tensor  # [k, G r, s]
    # Which rows have a key, 1 or 0, broadcastable to [k, G, r, 1]; None if all have.
    alive: Tensor | None


def cut_tile(plan: Plan, span: Span, index: Size, query: Tensor, bias: Bias | None) -> Tile:
    """The tile of this number, and its weights before dropout."""
    row = tf.minimum(index * plan.rows, plan.length - plan.rows)
    heads = span.head * plan.group, plan.heads * plan.group
    place = Place((span.batch, 1), heads, (row, plan.rows), key_range(plan, span, row))
    first, keys = place.keys
    key, value = (
        tf.slice(tensor, (0, first, 0), (plan.heads, keys, tensor.shape[-1]))
        for tensor in (span.key, span.value)
    )
    visible = span.visible_queries
    if visible is not None and visible.shape[0] != 1:
        visible = tf.slice(visible, (row,), (plan.rows,))
    rows = _rows(plan, place, query, plan.scale, visible)
    if bias is None:
        logits, tanh, some = _logits(plan, span, place, rows, key)
    else:
        added = bias_in(bias, place, plan.mask, plan.precision)
        logits, tanh, some = _biased_logits(plan, place, rows, key, added)
    alive = None if some is None else tf.cast(_split_heads(plan, some), plan.precision)
    if plan.sink is None:
        weights = tf.nn.softmax(tf.reshape(logits, (plan.heads, -1, keys)))
    else:
        weights = _softmax_with_sink(plan, place, logits)
    return Tile(span, index, place, rows, key, value, tanh, weights, alive)


def context_of(plan: Plan, tile: Tile) -> Tensor:
    """`[r, k G, Hv]`."""
    weights = tile.weights * _keep(plan, tile) if plan.dropout else tile.weights
    found = tf.matmul(tf.cast(weights, tile.value.dtype), tile.value)
    found = _by_head(plan, tf.cast(found, plan.precision))
    return _rows_first(plan, found if tile.alive is None else found * tile.alive)


def gradients_of(plan: Plan, tile: Tile, d_context: Tensor, context: Tensor) -> tuple:
    """Of query `[r, k G, H]`, key and value `[k, s, ...]`, logits `[k, G, r, s]`, sink `[k G]`."""
    fresh = tf.range(plan.rows) + tile.place.rows[0] >= tile.index * plan.rows
    fresh = tf.cast(fresh, plan.precision)[:, None]
    counts = fresh if tile.alive is None else fresh * tile.alive
    d_context = _rows(plan, tile.place, d_context, counts)  # [k, G r, Hv]
    context = _rows(plan, tile.place, context)
    dropped, d_logits = _d_logits(plan, tile, d_context, context)
    # With the sink's, the gradients of the logits of a row sum to zero.
    d_sink = None if plan.sink is None else -tf.reduce_sum(_by_head(plan, d_logits), (2, 3))
    if tile.tanh is not None:
        d_logits *= tf.reshape(1 - tile.tanh**2, tf.shape(d_logits))
    kind = tile.value.dtype
    d_value = tf.matmul(tf.cast(dropped, kind), d_context, transpose_a=True)
    products = tf.cast(d_logits, kind)
    d_key = tf.matmul(products, tile.query, transpose_a=True)
    d_query = tf.cast(tf.matmul(products, tile.key), plan.precision) * plan.scale
    d_key, d_value = tf.cast(d_key, plan.precision), tf.cast(d_value, plan.precision)
    d_query, d_logits = _rows_first(plan, _by_head(plan, d_query)), _by_head(plan, d_logits)
    return d_query, d_key, d_value, d_logits, d_sink


def _d_logits(plan: Plan, tile: Tile, d_context: Tensor, context: Tensor) -> tuple:
    """The weights after dropout, and the gradient of the logits after their cap."""
    weights, value = tile.weights, tile.value
    if plan.dropout or value.dtype not in (tf.float32, tf.float64):
        dropped = weights * _keep(plan, tile) if plan.dropout else weights
        d_weights = tf.cast(tf.matmul(d_context, value, transpose_b=True), plan.precision)
        products = dropped * d_weights
        return dropped, products - weights * tf.reduce_sum(products, -1, keepdims=True)
    # That sum is known from the context too, if no less precise, and enters the product, so that
    # only one more pass touches the tile.
    delta = tf.reduce_sum(d_context * context, -1, keepdims=True)  # [k, G r, 1]
    d_context = tf.concat([d_context, -delta], -1)
    value = tf.concat([value, tf.ones_like(value[..., :1])], -1)
    return weights, weights * tf.matmul(d_context, value, transpose_b=True)


def _biased_logits(plan: Plan, place: Place, query: Tensor, key: Tensor, bias: Tensor) -> tuple:
    """The logits `[k, G, r, s]` after bias, cap and mask; tanh; which rows have a key, or None."""
    block = plan.mask.block(*place)
    if plan.band is None:
        visible = block.materialize(plan.rows, place.keys[1])
    else:
        padding = dataclasses.replace(block, causal=False, window=None)
        visible = plan.band.part(plan.band.visible, place, plan.mask)
        if not padding.empty:
            visible &= padding.materialize(plan.rows, place.keys[1])
    visible, some = visible_pairs(visible, bias, True)
    visible_by_head = _split_heads(plan, visible)
    logits = _by_head(plan, _products(plan, query, key)) + _split_heads(plan, bias)
    if plan.logits_soft_cap is not None:  # what is hidden may be no number
        logits = tf.where(visible_by_head, logits, tf.zeros((), logits.dtype))
    logits, tanh = _capped(plan, logits)
    low = _split_heads(plan, tf.cast(hidden(some), plan.precision))
    return tf.where(visible_by_head, logits, low), tanh, some


def _logits(plan: Plan, span: Span, place: Place, query: Tensor, key: Tensor) -> tuple:
    """As `_biased_logits`; without a bias adding -1e30 hides, which costs less than a choice."""
    rows, block = plan.mask.block(*place).without_query_padding()
    alive = None if rows is None else tf.cast(rows, "bool")[:, None, :, None]
    masked, column, some, band = None, None, None, plan.band
    if band is not None:
        some = rows_with_a_key(plan.mask, place, plan.keys, span.real)
        masked = band.part(band.added, place, plan.mask)
        if block.key_padding is not None:
            column = _added(plan, tf.cast(block.key_padding, "bool"))
    elif not block.empty:
        allowed = block.materialize(plan.rows, place.keys[1])  # [1, 1 or k G, 1 or r, s]
        masked, some = _added(plan, allowed), tf.reduce_any(allowed, -1, keepdims=True)
        if masked.shape[1] == masked.shape[2] == 1 != masked.shape[3]:
            masked, column = None, masked[:, 0, 0]
    if plan.logits_soft_cap is None:
        logits, tanh = _by_head(plan, _products(plan, query, key, column)), None
    else:  # the mask comes after the cap
        logits, tanh = _capped(plan, _by_head(plan, _products(plan, query, key)))
        if column is not None:
            logits += column[:, None, None]
    if masked is not None:
        logits += _split_heads(plan, masked)
    return logits, tanh, some if alive is None else alive if some is None else alive & some


def _capped(plan: Plan, logits: Tensor) -> tuple:
    """The logits after their cap, and the tanh in it, or None."""
    cap = plan.logits_soft_cap
    if cap is None:
        return logits, None
    tanh = tf.tanh(logits / cap)
    return cap * tanh, tanh


def _softmax_with_sink(plan: Plan, place: Place, logits: Tensor) -> Tensor:
    """The weights `[k, G r, s]` of the logits `[k, G, r, s]` beside a sink for each head."""
    head, heads = place.heads
    sink = tf.cast(tf.slice(plan.sink, (head,), (heads,)), plan.precision)
    sink = tf.reshape(sink, (plan.heads, plan.group, 1, 1))
    column = tf.broadcast_to(sink, (plan.heads, plan.group, plan.rows, 1))
    weights = tf.nn.softmax(tf.concat([logits, column], -1))[..., :-1]
    return tf.reshape(weights, (plan.heads, -1, place.keys[1]))


def _added(plan: Plan, visible: Tensor) -> Tensor:
    return tf.cast(tf.where(visible, 0.0, MASKED), plan.precision)


def _products(plan: Plan, query: Tensor, key: Tensor, column: Tensor | None = None) -> Tensor:
    """The products of queries and keys `[k, G r, s]`, plus `column` `[1, s]` in every row."""
    if column is not None:  # one more column of the product costs less than another pass
        column = tf.cast(column[..., None], key.dtype)  # [1, s, 1]
        key = tf.concat([key, tf.repeat(column, plan.heads, 0)], -1)
        query = tf.concat([query, tf.ones_like(query[..., :1])], -1)
    return tf.cast(tf.matmul(query, key, transpose_b=True), plan.precision)


def _keep(plan: Plan, tile: Tile) -> Tensor:
    """Zero where a weight is dropped, else what scales the others up, `[k, G r, s]`."""
    step = tile.span.index * plan.blocks + tile.index
    seed = tf.random.experimental.stateless_fold_in(tf.cast(plan.seed, "int32"), step)
    keep, factor = random.kept(tf.unstack(tf.shape(tile.weights)), plan.dropout, seed)
    return tf.cast(keep, plan.precision) * factor


def _rows(
    plan: Plan, place: Place, tensor: Tensor, factor: Tensor = 1.0, visible: Tensor | None = None
) -> Tensor:
    """These rows `[k, G r, H]` of a tensor `[B, T, N, H]`, times a factor `[k, G, r, 1]`.

    Rows that are not visible are zeros.
    """
    (batch, _), (head, heads), (row, rows), width = *place[:3], tensor.shape[-1]
    part = product_type(tf.slice(tensor, (batch, row, head, 0), (1, rows, heads, width))[0])
    if visible is not None:
        part = tf.where(visible[:, None, None], part, tf.zeros((), part.dtype))
    part = tf.transpose(part, (1, 0, 2))  # [k G, r, H]
    if tf.is_tensor(factor):  # a cast of a number would round it to float32
        factor = tf.cast(factor, part.dtype)
    return tf.reshape(_by_head(plan, part) * factor, (plan.heads, -1, width))


def _rows_first(plan: Plan, tensor: Tensor) -> Tensor:
    """`[r, k G, H]` from `[k, G, r, H]`."""
    rows = tf.transpose(tensor, (2, 0, 1, 3))
    return tf.reshape(rows, (plan.rows, plan.heads * plan.group, tensor.shape[-1]))


def _by_head(plan: Plan, tensor: Tensor) -> Tensor:
    """`[k, G, r, ...]` from `[k, G r, ...]`."""
    width = size(tensor, len(tensor.shape) - 1)
    return tf.reshape(tensor, (plan.heads, plan.group, plan.rows, width))


def _split_heads(plan: Plan, part: Tensor) -> Tensor:
    """`[k or 1, G or 1, ...]` from `[1, k G or 1, ...]`."""
    if part.shape[1] == 1:
        return part
    return tf.reshape(part, (plan.heads, plan.group, size(part, 2), size(part, 3)))
