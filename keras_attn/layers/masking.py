"""Keras' own masks, which travel with the tensors."""

from typing import Any

from keras.src.backend import get_keras_mask  # Keras exports no reader of its masks


def own_mask(inputs: Any, mask: Any) -> Any:
    """The mask, or the one that the inputs carry.

    Keras fills an argument `mask` only where the inputs are the one tensor of a call; beside
    sequence ids or a cache it would be lost.
    """
    return get_keras_mask(inputs) if mask is None else mask
