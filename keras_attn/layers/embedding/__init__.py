"""Token ids to vectors."""

from keras_attn.layers.embedding.bert_embedding import BertEmbedding
from keras_attn.layers.embedding.token_embedding import TokenEmbedding

__all__ = ["BertEmbedding", "TokenEmbedding"]
