"""Masks as arguments of layers, tensors of bool by `_checks.to_boolean`.

Letters: B batch, T query length, S key length.
"""

from keras import ops

from keras_attn._checks import check_not_empty, check_shape, to_boolean
from keras_attn._keras import get_keras_mask
from keras_attn._typing import Nested, Size, Tensor
from keras_attn.ops.masks import dense_mask


def own_mask(inputs: Tensor, mask: Tensor | None) -> Tensor | None:
    """The given mask, or Keras' own mask of the inputs.

    Keras fills in an argument `mask` only if the inputs are the only tensor of a call; with
    sequence ids or a cache it would be lost.
    """
    return get_keras_mask(inputs) if mask is None else mask


def first_mask(masks: Nested) -> Tensor | None:
    """The mask that is propagated to the output: that of the first input."""
    return masks[0] if isinstance(masks, list | tuple) else masks


def first_position(inputs: Tensor) -> Tensor:
    """The first of the positions `[B, T, D]` as `[B, 1, D]`, whose length is known statically."""
    check_not_empty("inputs", inputs.shape)
    return ops.expand_dims(inputs[:, 0], 1)


def both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """True where both masks are True; None masks nothing."""
    if first is None or second is None:
        return second if first is None else first
    return ops.logical_and(first, second)


def without_hidden(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """`[B, T, D]` with zeros where the mask `[B, T]` is False.

    A weight of zero does not stop NaN or infinity: neither in a sum, nor in the gradient of a
    projection, where a zero gradient is multiplied by the input.
    """
    if mask is None:
        return inputs
    # Not `[..., None]`, which LiteRT's runtime lacks for tensors of unknown shape.
    return ops.where(ops.expand_dims(mask, -1), inputs, 0.0)


def pair_mask(query_mask: Tensor | None, memory_mask: Tensor | None) -> Tensor | None:
    """One mask broadcastable to `[B, T, S]` from the two masks; None if both are None."""
    pairs = None
    if memory_mask is not None:
        pairs = ops.expand_dims(memory_mask, 1)  # [B, T=1, S]
    if query_mask is not None:
        rows = ops.expand_dims(query_mask, 2)  # [B, T, S=1]
        pairs = rows if pairs is None else ops.logical_and(rows, pairs)
    return pairs


def to_attention_mask(
    mask: Tensor | None,
    batch: Size | None,
    heads: Size | None,
    queries: Size | None,
    keys: Size | None,
) -> Tensor | None:
    """An `attention_mask` of two to four axes as `[B or 1, N or 1, T, S]`, or None."""
    if mask is None:
        return None
    mask = to_boolean("attention_mask", mask)
    axes = {"batch": batch, "heads": heads, "query_length": queries, "key_length": keys}
    if len(mask.shape) == 3:
        del axes["heads"]
    elif len(mask.shape) == 2:
        axes = {name: axes[name] for name in ("query_length", "key_length")}
    if 2 <= len(mask.shape) <= 4:
        check_shape("attention_mask", mask.shape, broadcast=True, **axes)
    return dense_mask(mask)
