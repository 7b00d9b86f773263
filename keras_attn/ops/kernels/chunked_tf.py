"""Exact attention on TensorFlow in memory linear in length, forward and backward.

The matrix of logits is never whole: a loop walks over tiles of a few heads and a block of query
rows, each with all the keys that its mask leaves. The backward pass computes each tile again, so
that between the passes only the context is kept.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, G heads in a
group (N = K G), H head width, Hv value width; in a tile: k key/value heads, r rows, s keys.
"""

import functools
from typing import Any

import tensorflow as tf

from keras_attn.ops import kernels
from keras_attn.ops.kernels.bias_tiles_tf import bias_of
from keras_attn.ops.kernels.key_sums_tf import key_sums
from keras_attn.ops.kernels.loop_tensorflow import loop
from keras_attn.ops.kernels.plan_tf import Plan, Span, size, under_xla
from keras_attn.ops.kernels.reference import attention as reference_attention
from keras_attn.ops.kernels.tiles_tf import Tile
from keras_attn.ops.masks import AttentionMask


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
    block_size: int | None,
) -> Any:
    """See `keras_attn.ops.attention`; memory grows with T + S."""
    inputs = [tf.convert_to_tensor(tensor) for tensor in (query, key, value)]
    options = {"mask": mask, "bias": bias, "scale": scale, "dropout": dropout, "seed": seed}
    plain = {"return_scores": False, "block_size": None}
    chunked = functools.partial(_attention, *inputs, block_size=block_size, **options)
    reference = functools.partial(reference_attention, *inputs, **options, **plain)
    batch, length, keys = size(query, 0), size(query, 1), size(key, 1)
    # The reference kernel takes short rows, where their length shows at run time only, and a call
    # without any logits, of which no tile can be cut.
    worth = batch * length * keys > 0
    if not (block_size or isinstance(length * keys, int)):
        worth = tf.logical_and(worth, length * keys >= kernels.LONG["tensorflow"])
    if worth is False:
        return reference()
    if worth is True or under_xla():  # XLA has no gradient of a choice at run time
        return chunked()
    return tf.cond(worth, chunked, reference)


def _attention(
    *inputs: Any, mask: AttentionMask, bias: Any, seed: Any, block_size: int | None, **numbers: Any
) -> Any:
    bias = bias_of(bias)
    inputs = [*inputs, *map(tf.convert_to_tensor, bias.parameters)]
    numbers["seed"] = None if seed is None else tf.cast(seed, "int32")
    plan = Plan.of(*inputs[:2], mask=mask, bias=bias, block_size=block_size, **numbers)

    @tf.custom_gradient
    def run(*inputs: Any) -> tuple:
        # An eager tape would keep the results of all that a tensor with a gradient enters.
        context = _forward(plan, *map(tf.stop_gradient, inputs))

        def gradient(d_context: Any) -> tuple:
            return _first_gradient(plan, d_context, context, *inputs)

        return context, gradient

    return run(*inputs)


def _first_gradient(plan: Plan, d_context: Any, context: Any, *inputs: Any) -> tuple:
    """The gradients of all inputs, tile by tile.

    Their own gradients, for gradient penalties, are those of plain operations that hold all logits.
    """

    @tf.custom_gradient
    def run(d_context: Any, context: Any, *inputs: Any) -> tuple:
        given = map(tf.stop_gradient, (d_context, context, *inputs))

        def gradient(*d_gradients: Any) -> tuple:
            watched = (d_context, *inputs)
            with tf.GradientTape() as outer:
                outer.watch(watched)
                with tf.GradientTape() as inner:
                    inner.watch(inputs)
                    again = _whole(plan, *inputs)
                first = inner.gradient(again, inputs, d_context, unconnected_gradients="zero")
            found = outer.gradient(first, watched, d_gradients, unconnected_gradients="zero")
            # The context is computed from the inputs, which have all of its part.
            return found[0], tf.zeros_like(context), *found[1:]

        return _backward(plan, *given), gradient

    return run(d_context, context, *inputs)


def _whole(plan: Plan, query: Any, key: Any, value: Any, *parameters: Any) -> Any:
    if plan.dropout:  # only the tiles draw the same again
        return _forward(plan, query, key, value, *parameters)
    return reference_attention(
        query,
        key,
        value,
        mask=plan.mask,
        bias=plan.bias.whole(parameters),
        scale=plan.scale,
        dropout=0.0,
        seed=None,
        return_scores=False,
        block_size=None,
    )


def _forward(plan: Plan, query: Any, key: Any, value: Any, *parameters: Any) -> Any:
    def span(index: Any, carry: tuple) -> tuple:
        span = Span(plan, index, key, value)

        def block(index: Any, carry: tuple) -> tuple:
            context = Tile(span, index, query, parameters).context()
            return carry, (tf.cast(context, query.dtype),)

        _, (context,) = loop(plan.blocks, block, (), (query.dtype,))
        return carry, (plan.join(context),)

    _, (context,) = loop(plan.spans, span, (), (query.dtype,))
    return plan.assemble(context)  # [B, T, N, Hv]


def _backward(
    plan: Plan, d_context: Any, context: Any, query: Any, key: Any, value: Any, *parameters: Any
) -> tuple:
    sums = key_sums(plan)

    def span(index: Any, d_parameters: tuple) -> tuple:
        span = Span(plan, index, key, value)

        def block(index: Any, carry: tuple) -> tuple:
            totals, d_parameters = carry
            tile = Tile(span, index, query, parameters)
            d_query, *parts, d_logits = tile.gradients(d_context, context)
            totals, outputs = sums.add(totals, tile, parts)
            d_parameters = plan.bias.accumulate(d_parameters, tile, parameters, d_logits)
            return (totals, d_parameters), (tf.cast(d_query, query.dtype), *outputs)

        start = (sums.start(key.shape[-1], value.shape[-1]), d_parameters)
        carry, (d_query, *outputs) = loop(plan.blocks, block, start, (query.dtype, *sums.outputs))
        totals, d_parameters = carry
        d_key, d_value = sums.whole(totals, outputs)
        d_key, d_value = tf.cast(d_key, key.dtype), tf.cast(d_value, value.dtype)
        return d_parameters, (plan.join(d_query), d_key, d_value)

    dtypes = (query.dtype, key.dtype, value.dtype)
    d_parameters, parts = loop(
        plan.spans, span, plan.bias.zeros(parameters, plan.precision), dtypes
    )
    d_parameters = (
        tf.reshape(tf.cast(gradient, parameter.dtype), tf.shape(parameter))
        for gradient, parameter in zip(d_parameters, parameters, strict=True)
    )
    return (*map(plan.assemble, parts), *d_parameters)
