"""What our drop-in replacements for Keras' attention layers share.

They keep the sublayers, the weights and the private names of Keras' layers, and compute with our
kernels.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head width.
"""

import math
from typing import Any

import keras
from keras import ops as kops

from keras_attn import ops
from keras_attn._checks import to_boolean
from keras_attn._keras import (
    ATTENTION_HOOK,
    check_inputs,
    dropout_seeds,
    flatten_layers,
    logits,
    projection,
)
from keras_attn._typing import Config, Nested, Shape, Tensor
from keras_attn.layers.attention.attention_axes import AttentionAxes
from keras_attn.layers.attention.memory_attention import weigh
from keras_attn.layers.masking import both, first_mask, own_mask, without_hidden
from keras_attn.layers.sublayers import CompositeLayer, bias_of, keep_own_policy, rotation_of


class ManyHeads(CompositeLayer):
    """What our drop-ins with many heads share; a mixin before Keras' class."""

    # The default of a Keras layer that `upgrade` changed in place.
    flash_attention: bool | None = None

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        """Create the projections."""
        super().build(query_shape, value_shape, key_shape)
        for part in flatten_layers(self):
            part.supports_masking = True  # otherwise they warn about the masks of the inputs
            keep_own_policy(part)

    def call(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        query_mask: Tensor | None = None,
        value_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Nested:
        """Attend from `query` to `key` and `value`."""
        masks = (query_mask, value_mask, key_mask, attention_mask)
        flags = (return_attention_scores, training, use_causal_mask)
        theirs: Any = super()
        if getattr(type(self), ATTENTION_HOOK) is not getattr(theirs, ATTENTION_HOOK).__func__:
            # A subclass with its own computation, which Keras' code calls.
            return theirs.call(query, value, key, *masks, *flags)
        return attend(self, query, value, value if key is None else key, masks, *flags)

    def compute_mask(self, inputs: Tensor, previous_mask: Nested | None = None) -> Tensor | None:
        """The query's mask; none for the weights."""
        return first_mask(previous_mask)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {**super().get_config(), "flash_attention": self.flash_attention}


def checked(
    layer: keras.layers.Layer, query: Tensor, value: Tensor, key: Tensor, masks: tuple
) -> tuple[AttentionAxes, dict[str, Tensor | None]]:
    """The axes of attention, and the masks by name, with checked shapes.

    `masks` are those of query, value and key, and the attention mask.
    """
    query_mask, value_mask, key_mask, attention_mask = masks
    axes = AttentionAxes(getattr(layer, "attention_axes", (1,)), len(query.shape))
    return axes, {
        "query": axes.check_padding("query_mask", own_mask(query, query_mask), query),
        "value": axes.check_padding("value_mask", own_mask(value, value_mask), value),
        "key": axes.check_padding("key_mask", own_mask(key, key_mask), key),
        "attention": axes.check_mask(attention_mask, query, key),
    }


def attend(
    layer: keras.layers.Layer,
    query: Tensor,
    value: Tensor,
    key: Tensor,
    masks: tuple,
    return_scores: bool,
    training: bool | None,
    causal: bool,
) -> Nested:
    """The whole call of a layer with many heads: project, attend, gate, project.

    Args:
        layer: a `MultiHeadAttention` or `GroupQueryAttention`, ours or Keras', which is built.
        query: float `[B, T, D]`, or with more axes if `attention_axes` says so.
        value: float `[B, S, D]`, likewise.
        key: float `[B, S, D]`, likewise.
        masks: those of query `[B, T]`, value `[B, S]`, key `[B, S]`, and the attention mask,
            broadcastable to `[B, N, T, S]`; each may be None.
        return_scores: whether to return the weights too.
        training: whether dropout applies.
        causal: whether a query sees no later key.

    Returns:
        The output in the shape of the query, with the width of the output projection; with
        `return_scores` also the weights `[B, N, T, S]`, in the compute dtype.

    Raises:
        ValueError: a mask has another shape.
    """
    axes, named = checked(layer, query, value, key, masks)
    padding = both(named["value"], named["key"])
    query = without_hidden(query, named["query"])
    value, key = without_hidden(value, padding), without_hidden(key, padding)
    mask = ops.AttentionMask(
        causal=bool(causal),
        window=layer.sliding_window,
        key_padding=axes.merge_padding(padding, value),
        query_padding=axes.merge_padding(named["query"], query),
        dense=axes.merge_mask(named["attention"], query, key),
    )
    q = axes.merge(projection(layer, "query")(query))
    k = axes.merge(projection(layer, "key")(key))
    position = getattr(layer, "position", None)
    rotate = rotation_of(position)
    if rotate is not None:
        q, k = rotate(q), rotate(k)
    context = ops.attention(
        q,
        k,
        axes.merge(projection(layer, "value")(value)),
        mask=mask,
        bias=bias_of(position),
        **_dropout(layer, training),
        return_scores=return_scores,
        kernel="reference" if _plain(layer) else "auto",
    )
    context, *scores = context if return_scores else (context,)
    context = axes.split(context, query)  # [B, T, N, H]
    if layer.use_gate:
        context = context * projection(layer, "gate")(query)
    outputs = projection(layer, "output")(context)
    if not scores:
        return outputs
    return outputs, kops.cast(axes.split_scores(scores[0], query, key), layer.compute_dtype)


def attend_list(
    layer: keras.layers.Layer,
    inputs: list,
    mask: list | None,
    training: bool | None,
    return_scores: bool,
    causal: bool,
    dot: bool,
) -> Nested:
    """The whole call of a layer without heads, on `[query, value]` or `[query, value, key]`.

    With `dot` the logits are products of queries and keys, otherwise the layer's own.
    """
    check_inputs(layer, inputs, mask)
    query, value, *key = inputs
    key = key[0] if key else value
    query_mask, value_mask = (
        None if part is None else to_boolean("mask", part) for part in (mask or (None, None))[:2]
    )
    value, key = without_hidden(value, value_mask), without_hidden(key, value_mask)
    leading = kops.shape(query)[:-2]
    rows = math.prod(leading)
    q, k, v = (
        kops.reshape(x, (rows, *kops.shape(x)[-2:]))[:, :, None] for x in (query, key, value)
    )
    bias = None
    if not dot:
        bias = logits(layer, query, key)
        bias = kops.reshape(bias, (rows, 1, *kops.shape(bias)[-2:]))
        q, k = kops.zeros_like(q[..., :1]), kops.zeros_like(k[..., :1])
    elif layer.use_scale:
        q = q * layer.scale
    if value_mask is not None:
        value_mask = kops.reshape(value_mask, (rows, kops.shape(value_mask)[-1]))
    structure = ops.AttentionMask(causal=bool(causal), key_padding=value_mask)
    dropped = return_scores and training and layer.dropout  # the returned scores include dropout
    context = ops.attention(
        q,
        k,
        v,
        mask=structure,
        bias=bias,
        scale=1.0,
        **_dropout(layer, training and not dropped),
        return_scores=return_scores,
    )
    context, *scores = context if return_scores else (context,)
    if dropped:
        scores = [keras.random.dropout(scores[0], layer.dropout, seed=layer.seed_generator)]
        context = weigh(scores[0][:, 0], v[:, :, 0])[:, :, None]
    context = kops.reshape(context, (*leading, *kops.shape(context)[1:2], v.shape[-1]))
    if query_mask is not None:
        context = without_hidden(context, query_mask)
    if not scores:
        return context
    scores = kops.reshape(scores[0], (*leading, *kops.shape(scores[0])[-2:]))
    return context, kops.cast(scores, layer.compute_dtype)


def _dropout(layer: Any, training: bool | None) -> dict[str, Any]:
    rate = layer.dropout if training else 0.0
    return {"dropout": rate, "seed": dropout_seeds(layer).next() if rate else None}


def _plain(layer: keras.layers.Layer) -> bool:
    wanted = layer.flash_attention
    return (keras.config.is_flash_attention_enabled() if wanted is None else wanted) is False
