"""Heads for an encoder or a decoder, and a loss for them."""

from keras_attn.layers.head.bert_pretraining_head import BertPretrainingHead, NextSentenceHead
from keras_attn.layers.head.language_model_head import LanguageModelHead
from keras_attn.layers.head.linear_cross_entropy import LinearCrossEntropy
from keras_attn.layers.head.masked_lm_head import MaskedLMHead
from keras_attn.layers.head.sequence_pooling import SequencePooling
from keras_attn.layers.head.task_heads import (
    ClassificationHead,
    MultipleChoiceHead,
    SpanHead,
    TokenTaggingHead,
)

__all__ = [
    "BertPretrainingHead",
    "ClassificationHead",
    "LanguageModelHead",
    "LinearCrossEntropy",
    "MaskedLMHead",
    "MultipleChoiceHead",
    "NextSentenceHead",
    "SequencePooling",
    "SpanHead",
    "TokenTaggingHead",
]
