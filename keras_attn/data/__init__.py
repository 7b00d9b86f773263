"""Text to tensors with tf.data and tensorflow-text, inside the graph, so that export reuses it."""

from keras_attn.data.bert_preprocessor import BertPreprocessor
from keras_attn.data.choice_preprocessor import ChoicePreprocessor
from keras_attn.data.classification_postprocessor import ClassificationPostprocessor
from keras_attn.data.masked_lm import TokenMasker
from keras_attn.data.masked_lm_postprocessor import MaskedLMPostprocessor
from keras_attn.data.masked_lm_preprocessor import MaskedLMPreprocessor
from keras_attn.data.packed_rows import pack_rows
from keras_attn.data.packing import pack
from keras_attn.data.pair_preprocessor import PairPreprocessor
from keras_attn.data.pipelines import pretraining_dataset, rows_of
from keras_attn.data.record_writer import write_records
from keras_attn.data.records import read_records, sample_records
from keras_attn.data.sentence_pairs import SentencePairs
from keras_attn.data.tagging_postprocessor import TaggingPostprocessor
from keras_attn.data.tasks.span import SpanPostprocessor, SpanPreprocessor
from keras_attn.data.text.documents import (
    read_documents,
    split_documents,
    stream_documents,
    tokenize_documents,
)
from keras_attn.data.text.examples import (
    Examples,
    read_choices,
    read_entities,
    read_examples,
    read_rows,
    read_squad,
)
from keras_attn.data.text.tables import read_table, table_documents
from keras_attn.data.text.tags import read_tags
from keras_attn.data.text.tokenizer import BertTokenizer
from keras_attn.data.text.vocabulary import read_vocabulary, train_vocabulary
from keras_attn.data.words_preprocessor import WordsPreprocessor

__all__ = [
    "BertPreprocessor",
    "BertTokenizer",
    "ChoicePreprocessor",
    "ClassificationPostprocessor",
    "Examples",
    "MaskedLMPostprocessor",
    "MaskedLMPreprocessor",
    "PairPreprocessor",
    "SentencePairs",
    "SpanPostprocessor",
    "SpanPreprocessor",
    "TaggingPostprocessor",
    "TokenMasker",
    "WordsPreprocessor",
    "pack",
    "pack_rows",
    "pretraining_dataset",
    "read_choices",
    "read_documents",
    "read_entities",
    "read_examples",
    "read_records",
    "read_rows",
    "read_squad",
    "read_table",
    "read_tags",
    "read_vocabulary",
    "rows_of",
    "sample_records",
    "split_documents",
    "stream_documents",
    "table_documents",
    "tokenize_documents",
    "train_vocabulary",
    "write_records",
]
