"""Text to tensors with tf.data and tensorflow-text, inside the graph: a servable contains it."""

from keras_attn.data.pretraining.masking import TokenMasker
from keras_attn.data.pretraining.packing import pack_rows
from keras_attn.data.pretraining.record_writer import write_records
from keras_attn.data.pretraining.records import read_records, sample_records
from keras_attn.data.pretraining.sentence_pairs import SentencePairs
from keras_attn.data.pretraining.streams import pretraining_dataset, rows_of
from keras_attn.data.tasks.classification import (
    BertPreprocessor,
    ChoicePreprocessor,
    ClassificationPostprocessor,
    PairPreprocessor,
)
from keras_attn.data.tasks.layers import Postprocessor, Preprocessor, check_protocol
from keras_attn.data.tasks.masked_lm import MaskedLMPostprocessor, MaskedLMPreprocessor
from keras_attn.data.tasks.span import SpanPostprocessor, SpanPreprocessor
from keras_attn.data.tasks.tagging import TaggingPostprocessor, WordsPreprocessor
from keras_attn.data.text.byte_pair_tokenizer import BytePairTokenizer
from keras_attn.data.text.documents import (
    read_documents,
    split_documents,
    stream_documents,
    tokenize_documents,
)
from keras_attn.data.text.example_files import (
    read_choices,
    read_entities,
    read_rows,
    read_squad,
)
from keras_attn.data.text.examples import Examples, read_examples
from keras_attn.data.text.files import read_tags
from keras_attn.data.text.segments import pack
from keras_attn.data.text.sentence_piece_tokenizer import SentencePieceTokenizer
from keras_attn.data.text.tables import read_table, table_documents
from keras_attn.data.text.tokenizer import BertTokenizer
from keras_attn.data.text.tokenizer_files import read_tokenizer
from keras_attn.data.text.tokenizer_saving import write_tokenizer
from keras_attn.data.text.unigram_tokenizer import UnigramTokenizer
from keras_attn.data.text.vocabulary import read_vocabulary, train_vocabulary

__all__ = [
    "BertPreprocessor",
    "BertTokenizer",
    "BytePairTokenizer",
    "ChoicePreprocessor",
    "ClassificationPostprocessor",
    "Examples",
    "MaskedLMPostprocessor",
    "MaskedLMPreprocessor",
    "PairPreprocessor",
    "Postprocessor",
    "Preprocessor",
    "SentencePairs",
    "SentencePieceTokenizer",
    "SpanPostprocessor",
    "SpanPreprocessor",
    "TaggingPostprocessor",
    "TokenMasker",
    "UnigramTokenizer",
    "WordsPreprocessor",
    "check_protocol",
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
    "read_tokenizer",
    "read_vocabulary",
    "rows_of",
    "sample_records",
    "split_documents",
    "stream_documents",
    "table_documents",
    "tokenize_documents",
    "train_vocabulary",
    "write_records",
    "write_tokenizer",
]
