"""Serializable Keras layers: attention, positions, embeddings, blocks and heads."""

import warnings

from keras_attn.layers import attention, block, embedding, head, position
from keras_attn.layers.attention import *  # noqa: F403
from keras_attn.layers.block import *  # noqa: F403
from keras_attn.layers.block import cached_block  # files of version 0.1.0 may hold one
from keras_attn.layers.embedding import *  # noqa: F403
from keras_attn.layers.head import *  # noqa: F403
from keras_attn.layers.position import *  # noqa: F403

__all__ = [
    *attention.__all__,
    *block.__all__,
    *embedding.__all__,
    *head.__all__,
    *position.__all__,
]


def __getattr__(name: str) -> type:
    if name == "CachedBlock":
        warnings.warn(
            "keras_attn.layers.CachedBlock is deprecated: call a block with `cache`, or use "
            "keras_attn.models.steps",
            DeprecationWarning,
            stacklevel=2,
        )
        return cached_block.CachedBlock
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
