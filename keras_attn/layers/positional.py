"""The position object that an attention layer or a block is given."""

from typing import Any

import keras


def positional(position: Any, num_heads: int) -> Any:
    """A position layer, given as itself or as its config, that fits `num_heads`; or None."""
    if isinstance(position, dict):
        position = keras.saving.deserialize_keras_object(position)
    if position is None:
        return None
    if not callable(getattr(position, "rotate", None) or getattr(position, "bias", None)):
        raise TypeError(
            "`position` must be a RotaryEmbedding, ALiBi or RelativePositionBias, or None, "
            f"got {position!r}"
        )
    heads = getattr(position, "num_heads", num_heads)
    if heads != num_heads:
        raise ValueError(f"`position` must have {num_heads} heads as the layer, got {heads}")
    return position
