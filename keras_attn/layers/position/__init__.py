"""Positions: vectors added to the embeddings, and layers that change the logits."""

from keras_attn.layers.position.alibi import ALiBi
from keras_attn.layers.position.learned_position_embedding import LearnedPositionEmbedding
from keras_attn.layers.position.relative_position_bias import RelativePositionBias
from keras_attn.layers.position.rotary_embedding import RotaryEmbedding
from keras_attn.layers.position.sinusoidal_position_encoding import SinusoidalPositionEncoding

__all__ = [
    "ALiBi",
    "LearnedPositionEmbedding",
    "RelativePositionBias",
    "RotaryEmbedding",
    "SinusoidalPositionEncoding",
]
