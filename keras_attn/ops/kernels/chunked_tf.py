"""Exact attention on TensorFlow in memory linear in length, forward and backward.

The matrix of logits is never whole: a loop walks over tiles of a few heads and a block of query
rows, each with all the keys that its mask leaves. The backward pass computes each tile again, so
that between the passes only the context is kept.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, G heads in a
group (N = K G), H head width, Hv value width; in a tile: k key/value heads, r rows, s keys.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_attn._typing import Tensor
from keras_attn.backend.tensorflow import device_of, size, traced_once, under_xla
from keras_attn.ops.biases import Bias
from keras_attn.ops.kernels import schedule
from keras_attn.ops.kernels.passes_tf import backward, forward
from keras_attn.ops.kernels.plan_tf import plan_of
from keras_attn.ops.kernels.reference import attention as reference_attention
from keras_attn.ops.kernels.terms_tf import split_bias, with_tensors
from keras_attn.ops.masks import AttentionMask


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
    block_size: int | None,
) -> Tensor:
    """See `keras_attn.ops.attention`; memory grows with T + S."""
    parts = {field.name: getattr(mask, field.name) for field in dataclasses.fields(mask)}
    fixed = {name: part for name, part in parts.items() if not tf.is_tensor(part)}
    others = {name: part for name, part in parts.items() if name not in fixed}
    others |= {} if seed is None else {"seed": seed}
    same, learned = split_bias(bias)
    sinks = () if sink is None else (tf.convert_to_tensor(sink),)
    inputs = (*map(tf.convert_to_tensor, (query, key, value)), learned, sinks)
    options = {"scale": scale, "logits_soft_cap": logits_soft_cap, "dropout": dropout}
    tiling = {"block_size": block_size, "device": device_of(inputs[0])}

    def attend(tensors: tuple) -> Tensor:
        return _attend(tensors, bias, fixed, tiling, options)

    identity = (*fixed.items(), *options.items(), *tiling.items(), same)
    return traced_once(attend, identity, (inputs, others))


def _attend(tensors: tuple, bias: Bias | None, fixed: dict, tiling: dict, options: dict) -> Tensor:
    """The context from `(query, key, value, tensors of the bias, sinks), {mask parts, seed}`."""

    def unpack(flat: Sequence[Tensor]) -> tuple:
        (*inputs, sinks), others = tf.nest.pack_sequence_as(tensors, flat)
        asked = {"sink": sinks[0] if sinks else None, "seed": others.pop("seed", None)}
        return inputs, {"mask": AttentionMask(**fixed, **others), **asked, **options}

    def tiled(function: Callable, flat: Sequence[Tensor], *upstream: Tensor) -> Tensor:
        (query, key, value, learned), asked = unpack(flat)
        plan = plan_of(query, key, **tiling, **asked)
        return function(plan, *upstream, query, key, value, with_tensors(bias, learned))

    def plain(flat: Sequence[Tensor]) -> Tensor:
        (query, key, value, learned), asked = unpack(flat)
        asked |= {"bias": with_tensors(bias, learned), "return_scores": False, "block_size": None}
        return reference_attention(query, key, value, **asked)

    flat, count = tf.nest.flatten(tensors), len(tf.nest.flatten(tensors[0]))

    def is_worth(flat: Sequence[Tensor]) -> Tensor:
        # The reference kernel takes rows that turn out to be short at run time, and calls without
        # any logits, of which no tile can be cut.
        batch, length, keys = size(flat[0], 0), size(flat[0], 1), size(flat[1], 1)
        worth = batch * length * keys > 0
        if tiling["block_size"] or isinstance(length * keys, int):
            return worth
        return tf.logical_and(worth, length * keys >= schedule.LONG["tensorflow"])

    def choose(flat: Sequence[Tensor], tiles: Callable, reference: Callable) -> Tensor:
        worth = is_worth(flat)
        return tiles() if worth is True or under_xla() else tf.cond(worth, tiles, reference)

    # The choice is made inside of each gradient: TensorFlow has no second gradient of `tf.cond`.
    @tf.custom_gradient
    def differentiable(*flat: Tensor) -> tuple:
        # An eager tape would keep every result that depends on a tensor with a gradient.
        stopped = tuple(map(tf.stop_gradient, flat))
        context = choose(flat, lambda: tiled(forward, stopped), lambda: plain(stopped))

        def gradient(d_context: Tensor) -> tuple:
            return *first_gradient(d_context, context, *flat), *[None] * (len(flat) - count)

        return context, gradient

    @tf.custom_gradient
    def first_gradient(*given: Tensor) -> tuple:
        given = tuple(map(tf.identity, given))  # else those of another graph, if this has its own
        d_context, context, *flat = map(tf.stop_gradient, given)
        gradients = choose(
            flat,
            lambda: tiled(backward, flat, d_context, context),
            lambda: _gradients(plain, flat, count, d_context),
        )

        def second_gradient(*d_gradients: Tensor) -> tuple:
            # For gradient penalties: plain operations, which hold all logits. Under dropout only
            # the kernel that drew draws the same again.
            d_context, context, *flat = given
            through = functools.partial(
                _second_gradients, flat=flat, count=count, upstream=d_context, given=d_gradients
            )
            if options["dropout"]:
                tiles = functools.partial(tiled, forward)
                found = choose(flat, lambda: through(tiles), lambda: through(plain))
            else:
                found = through(plain)
            # The context is computed from the inputs, which have all of its part.
            return found[0], tf.zeros_like(context), *found[1:], *[None] * (len(flat) - count)

        return gradients, second_gradient

    return plain(flat) if is_worth(flat) is False else differentiable(*flat)


def _gradients(function: Callable, flat: list, count: int, upstream: Tensor) -> tuple:
    """The gradients of `function(flat)` to the first `count`."""
    with tf.GradientTape() as tape:
        tape.watch(flat[:count])
        context = function(flat)
    return _dense(tape.gradient(context, flat[:count], upstream, unconnected_gradients="zero"))


def _second_gradients(
    function: Callable, flat: list, count: int, upstream: Tensor, given: tuple
) -> tuple:
    """The gradients of `_gradients`, times `given`, to `upstream` and to the first `count`."""
    sources = (upstream, *flat[:count])
    with tf.GradientTape() as tape:
        tape.watch(sources)
        gradients = _gradients(function, flat, count, upstream)
    return _dense(tape.gradient(gradients, sources, given, unconnected_gradients="zero"))


def _dense(gradients: Sequence[Tensor]) -> tuple:
    """Tensors, also where a gradient came as slices."""
    return tuple(map(tf.convert_to_tensor, gradients))
