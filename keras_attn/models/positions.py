"""Where a position layer goes: onto the embeddings, or into the logits of each block."""

from typing import Any

import keras


def enters_logits(position: keras.layers.Layer) -> bool:
    """Whether the position rotates queries and keys or adds a bias, so that a block takes it."""
    return hasattr(position, "rotate") or hasattr(position, "bias")


def attention_position(position: keras.layers.Layer) -> keras.layers.Layer | None:
    """A copy for one block, with weights of its own; None where the embeddings take it."""
    return _copy(position) if enters_logits(position) else None


def embedding_position(position: keras.layers.Layer, name: str, dtype: Any) -> keras.layers.Layer:
    """A copy for the embeddings; where the blocks take it, a layer that changes nothing."""
    if enters_logits(position):
        return keras.layers.Identity(name=name, dtype=dtype)
    return _copy(position, name=name, dtype=dtype or position.dtype_policy)


def _copy(position: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
    return type(position).from_config({**position.get_config(), **changes})
