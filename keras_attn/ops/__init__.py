"""Attention as mathematics: tensors in, tensors out; no weights and no state."""

from keras_attn.ops.attention import attention, explain
from keras_attn.ops.cross_entropy import linear_cross_entropy
from keras_attn.ops.dot_product_attention import dot_product_attention
from keras_attn.ops.masks import AttentionMask
from keras_attn.ops.numerics import dense
from keras_attn.ops.positions import Llama3Scaling, NtkScaling, YarnScaling
from keras_attn.ops.remat import remat

__all__ = [
    "AttentionMask",
    "Llama3Scaling",
    "NtkScaling",
    "YarnScaling",
    "attention",
    "dense",
    "dot_product_attention",
    "explain",
    "linear_cross_entropy",
    "remat",
]
