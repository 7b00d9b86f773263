"""What stands on top of an encoder or a decoder."""

from keras_attn.layers.head.bert_pretraining_head import BertPretrainingHead
from keras_attn.layers.head.masked_lm_head import MaskedLMHead
from keras_attn.layers.head.next_sentence_head import NextSentenceHead

__all__ = ["BertPretrainingHead", "MaskedLMHead", "NextSentenceHead"]
