"""The blocks of Transformers."""

from keras_attn.layers.block.feed_forward import FeedForward
from keras_attn.layers.block.scalar_mix import ScalarMix
from keras_attn.layers.block.transformer_decoder_block import TransformerDecoderBlock
from keras_attn.layers.block.transformer_encoder_block import TransformerEncoderBlock

__all__ = [
    "FeedForward",
    "ScalarMix",
    "TransformerDecoderBlock",
    "TransformerEncoderBlock",
]
