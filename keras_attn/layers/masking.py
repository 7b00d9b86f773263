"""Keras' own masks, which travel with the tensors."""

from typing import Any

from keras import ops
from keras.src.backend import get_keras_mask  # Keras exports no reader of its masks


def own_mask(inputs: Any, mask: Any) -> Any:
    """The mask, or the one that the inputs carry.

    Keras fills an argument `mask` only where the inputs are the one tensor of a call; beside
    sequence ids or a cache it would be lost.
    """
    return get_keras_mask(inputs) if mask is None else mask


def first_mask(masks: Any) -> Any:
    """What goes on to the output: the mask of the first input."""
    return masks[0] if isinstance(masks, list | tuple) else masks


def both(first: Any, second: Any) -> Any:
    """True where both masks are; one that is None hides nothing."""
    if first is None or second is None:
        return second if first is None else first
    return ops.logical_and(ops.cast(first, "bool"), ops.cast(second, "bool"))
