"""Attention as mathematics: tensors in, tensors out; no weights and no state."""

from keras_attn.ops.attention import attention
from keras_attn.ops.dense import dense
from keras_attn.ops.masks import AttentionMask

__all__ = ["AttentionMask", "attention", "dense"]
