"""Attention layers."""

from keras_attn.layers.attention.additive_attention import AdditiveAttention
from keras_attn.layers.attention.attention import Attention
from keras_attn.layers.attention.attention_decoder import AttentionDecoder
from keras_attn.layers.attention.attention_decoder_cell import AttentionDecoderCell
from keras_attn.layers.attention.bahdanau_attention import BahdanauAttention
from keras_attn.layers.attention.grouped_query_attention import (
    GroupedQueryAttention as GroupQueryAttention,
)
from keras_attn.layers.attention.hard_attention import HardAttention
from keras_attn.layers.attention.luong_attention import LuongAttention
from keras_attn.layers.attention.multi_head_attention import MultiHeadAttention
from keras_attn.layers.attention.multi_head_cross_attention import MultiHeadCrossAttention
from keras_attn.layers.attention.multi_head_self_attention import MultiHeadSelfAttention

__all__ = [
    "AdditiveAttention",
    "Attention",
    "AttentionDecoder",
    "AttentionDecoderCell",
    "BahdanauAttention",
    "GroupQueryAttention",
    "HardAttention",
    "LuongAttention",
    "MultiHeadAttention",
    "MultiHeadCrossAttention",
    "MultiHeadSelfAttention",
]
