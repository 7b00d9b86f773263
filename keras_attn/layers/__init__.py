"""Serializable Keras layers: attention, positions, embeddings, blocks and heads."""

from keras_attn.layers import attention, block, embedding, head, position
from keras_attn.layers.attention import *  # noqa: F403
from keras_attn.layers.block import *  # noqa: F403
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
