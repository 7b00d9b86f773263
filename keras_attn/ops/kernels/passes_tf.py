"""The two passes of `chunked_tf` over its tiles, and the sums that the backward pass keeps.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, G query heads of
each of them, H head width, Hv value width; in a tile: k key/value heads, r rows, s keys.
"""

from collections.abc import Iterable, Sequence

import tensorflow as tf

from keras_attn._typing import Size, Tensor
from keras_attn.backend.tensorflow import loop, size
from keras_attn.ops.biases import Bias
from keras_attn.ops.kernels import schedule
from keras_attn.ops.kernels.plan_tf import Plan, cut_span
from keras_attn.ops.kernels.terms_tf import (
    Place,
    add_bias_gradients,
    no_bias_gradients,
    split_bias,
)
from keras_attn.ops.kernels.tiles_tf import context_of, cut_tile, gradients_of


def forward(plan: Plan, query: Tensor, key: Tensor, value: Tensor, bias: Bias | None) -> Tensor:
    """The context `[B, T, N, Hv]`."""

    def run_span(index: Size, carry: tuple) -> tuple:
        span = cut_span(plan, index, key, value)

        def run_block(index: Size, carry: tuple) -> tuple:
            context = context_of(plan, cut_tile(plan, span, index, query, bias))
            return carry, (tf.cast(context, query.dtype),)

        _, (context,) = loop(plan.blocks, run_block, (), (query.dtype,))
        return carry, (_join(plan, context),)

    _, (context,) = loop(plan.spans, run_span, (), (query.dtype,))
    return _assemble(plan, context)


def backward(
    plan: Plan,
    d_context: Tensor,
    context: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Bias | None,
) -> tuple:
    """The gradients of query, key, value, the bias's tensors and the sink, from the context's."""
    _, learned = split_bias(bias)
    sinks = () if plan.sink is None else (plan.sink,)

    def run_span(index: Size, carry: tuple) -> tuple:
        span = cut_span(plan, index, key, value)

        def run_block(index: Size, carry: tuple) -> tuple:
            sums, d_learned, d_sinks = carry
            tile = cut_tile(plan, span, index, query, bias)
            d_query, *parts, d_logits, d_sink = gradients_of(plan, tile, d_context, context)
            sums, outputs = _add_keys(plan, sums, tile.place, parts)
            d_learned = add_bias_gradients(
                d_learned, bias, learned, tile.place, plan.mask, d_logits
            )
            d_sinks = tuple(_add_heads(total, tile.place, d_sink) for total in d_sinks)
            return (sums, d_learned, d_sinks), (tf.cast(d_query, query.dtype), *outputs)

        start = (_no_keys(plan, (key.shape[-1], value.shape[-1])), *carry)
        dtypes = (query.dtype, *_key_outputs(plan))
        (sums, *totals), (d_query, *outputs) = loop(plan.blocks, run_block, start, dtypes)
        d_key, d_value = _all_keys(plan, sums, outputs)
        d_key, d_value = tf.cast(d_key, key.dtype), tf.cast(d_value, value.dtype)
        return tuple(totals), (_join(plan, d_query), d_key, d_value)

    start = (
        no_bias_gradients(bias, learned, plan.precision),
        tuple(tf.zeros(sink.shape, plan.precision) for sink in sinks),
    )
    dtypes = (query.dtype, key.dtype, value.dtype)
    (d_bias, d_sinks), parts = loop(plan.spans, run_span, start, dtypes)
    d_learned = (
        tf.reshape(tf.cast(gradient, tensor.dtype), tf.shape(tensor))
        for gradient, tensor in zip((*d_bias, *d_sinks), (*learned, *sinks), strict=True)
    )
    return (*(_assemble(plan, part) for part in parts), *d_learned)


def _add_heads(total: Tensor, place: Place, part: Tensor) -> Tensor:
    """The sums `[N]` with those of a tile's heads `[k, G]`."""
    head, heads = place.heads
    places = (tf.range(heads) + head)[:, None]
    return tf.tensor_scatter_nd_add(total, places, tf.reshape(part, (-1,)))


def _join(plan: Plan, blocks: Tensor) -> Tensor:
    """`[T, ...]` from stacked blocks `[blocks, r, ...]`, whose last one overlaps."""
    whole = tf.reshape(blocks[:-1], (-1, *blocks.shape[2:]))
    rest = plan.length - (plan.blocks - 1) * plan.rows
    return tf.concat([whole, blocks[-1, plan.rows - rest :]], 0)


def _assemble(plan: Plan, spans: Tensor) -> Tensor:
    """`[B, L, heads, width]` from stacked spans `[B runs, L, heads / runs, width]`."""
    length, heads, width = size(spans, 1), spans.shape[2], spans.shape[3]
    spans = tf.reshape(spans, (plan.batch, plan.runs, length, heads, width))
    spans = tf.transpose(spans, (0, 2, 1, 3, 4))
    return tf.reshape(spans, (plan.batch, length, plan.runs * heads, width))


# The gradients of keys and values, summed over the tiles of a span. Without a window these are sums
# of all keys, `[k, S, H]`, to which each tile adds. With a window they are the sums of the keys in
# the band of the last tile alone, so that a tile never costs O(S): the bands move towards the end,
# and a key that the next band has left is done.


def _no_keys(plan: Plan, widths: tuple) -> tuple:
    """The sums before the first tile, one for each width; in a band, after its first key."""
    keys = schedule.band(plan.mask, plan.rows, plan.keys)
    sums = tuple(tf.zeros((plan.heads, keys, width), plan.precision) for width in widths)
    return sums if plan.mask.window is None else (tf.constant(0), *sums)


def _key_outputs(plan: Plan) -> tuple:
    """The dtypes of what `_add_keys` gives for each tile."""
    return () if plan.mask.window is None else ("int32", plan.precision, plan.precision)


def _add_keys(plan: Plan, sums: Sequence[Tensor], place: Place, parts: list) -> tuple:
    """The sums with a tile's parts `[k, s, H]`, and what `_all_keys` needs of this tile.

    In a band these are the positions and sums of the keys that are done, up to r.
    """
    if plan.mask.window is not None:
        return _move_band(plan, sums, place.keys[0], parts)
    first, keys = place.keys
    if keys is not plan.keys:
        rest = plan.keys - first - keys
        parts = [tf.pad(part, ((0, 0), (first, rest), (0, 0))) for part in parts]
    return tuple(total + part for total, part in zip(sums, parts, strict=True)), ()


def _move_band(plan: Plan, sums: Iterable[Tensor], first_key: Size, parts: list) -> tuple:
    first, *sums = sums
    rows = tf.range(plan.rows)
    moved = tf.minimum(first_key - first, plan.rows)  # more only in the first tile
    places = tf.where(rows < moved, first + rows, plan.keys)  # those not done are nowhere
    longer = [tf.pad(total, ((0, 0), (0, plan.rows), (0, 0))) for total in sums]
    finished = [tf.transpose(total[:, : plan.rows], (1, 0, 2)) for total in longer]
    sums = (
        tf.slice(total, (0, moved, 0), tf.shape(part)) + part
        for total, part in zip(longer, parts, strict=True)
    )
    return (first_key, *sums), (places, *finished)


def _all_keys(plan: Plan, sums: Sequence[Tensor], outputs: list) -> list:
    """The sums of all keys, first, `[S, k, H]`."""
    first, *sums = sums if plan.mask.window is not None else (None, *sums)
    totals = [tf.transpose(total, (1, 0, 2)) for total in sums]
    if plan.mask.window is None:
        return totals
    places, *finished = outputs
    last = first + tf.range(size(sums[0], 1))
    places = tf.concat([tf.reshape(places, (-1,)), last], 0)
    rows, keys = tf.size(places), plan.keys
    # From where each key comes; a key of no tile comes from the zeros after all rows.
    source = tf.fill((keys + 1,), rows)
    source = tf.tensor_scatter_nd_update(source, places[:, None], tf.range(rows))[:keys]
    found = []
    for total, done in zip(totals, finished, strict=True):
        done = tf.reshape(done, (-1, *total.shape[1:]))
        found.append(tf.gather(tf.concat([done, total, tf.zeros_like(total[:1])], 0), source))
    return found
