"""The tokenizer of the original BERT, in the graph, with operations that older servers have.

Letters: B batch, T tokens of a row (ragged), V vocabulary.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from keras_attn._keras import register, takes_strings
from keras_attn._typing import Config, Tensor
from keras_attn.data._tensorflow import strings, symbolic_ids, tf, tf_text
from keras_attn.data.text.normalization import (
    SPECIAL_TOKENS,
    marked,
    normalize,
    sources,
    split_words,
)
from keras_attn.data.text.segments import token_ids
from keras_attn.data.text.vocabulary import check_vocabulary, read_vocabulary

_LONGEST_WORD = 100  # characters; BERT gives [UNK] for a longer one


@register()
class BertTokenizer(keras.layers.Layer):
    """A WordPiece tokenizer, with the ids of the original BERT's.

    Control characters are deleted. With `lowercase` the text is lower-cased, decomposed (NFD) and
    its accents are removed. It is split at spaces, punctuation and Chinese characters. Each word
    becomes, from left to right, the longest tokens that match, or [UNK]; tokens that continue a
    word begin with "##". A special token in a string, such as "[MASK]", becomes its id.

    It works eagerly, in `tf.data`, in a functional model with
    `keras.Input(shape=(), dtype="string")` (TensorFlow backend) and in a SavedModel. The
    vocabulary is part of the config: a `.keras` file needs no separate vocabulary file. Invalid
    UTF-8 bytes are dropped, since a server must answer such requests too.

    Args:
        vocabulary: the tokens in the order of their ids, or the path of a vocab.txt.
        lowercase: whether the vocabulary is uncased (lower case, no accents).

    Call arguments:
        text: strings, `[B]`, or ragged of any depth.

    Returns:
        int32 ids, ragged `[B, (T)]`; one more ragged axis than `text`. [CLS] and [SEP] are not
        added: `pack` does that.

    Raises:
        ValueError: the vocabulary is empty, is not UTF-8, repeats a token or lacks one of [PAD],
            [UNK], [CLS], [SEP], [MASK]; in a call, `text` has another shape.

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> tokenizer = BertTokenizer(vocabulary)
    >>> tokenizer(["Playing!", "[MASK] chess"]).to_list()
    [[5, 6, 7], [4, 1]]

    Source: Devlin et al. 2019, section 3.
    """

    separators = 1  # [SEP] between two texts of a row

    def __init__(
        self,
        vocabulary: Sequence[str] | str | os.PathLike,
        lowercase: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        takes_strings(self)
        source = "a list"
        if isinstance(vocabulary, (str, os.PathLike)):
            source = os.fspath(vocabulary)
            vocabulary = read_vocabulary(vocabulary)
        check_vocabulary(vocabulary, source)
        # One string: Keras and TensorFlow would wrap and track every element of a list.
        self._vocabulary = "\n".join(vocabulary)
        self.lowercase = lowercase
        self._tokenizer = None
        self.built = True

    @property
    def vocabulary(self) -> list[str]:
        """The tokens, in the order of their ids."""
        return self._vocabulary.split("\n")

    @property
    def pad_id(self) -> int:
        """The id of [PAD]."""
        return self._special_ids["[PAD]"]

    @property
    def unk_id(self) -> int:
        """The id of [UNK]."""
        return self._special_ids["[UNK]"]

    @property
    def cls_id(self) -> int:
        """The id of [CLS]."""
        return self._special_ids["[CLS]"]

    @property
    def sep_id(self) -> int:
        """The id of [SEP]."""
        return self._special_ids["[SEP]"]

    @property
    def mask_id(self) -> int:
        """The id of [MASK]."""
        return self._special_ids["[MASK]"]

    @functools.cached_property
    def _special_ids(self) -> dict[str, int]:
        vocabulary = self.vocabulary
        return {token: vocabulary.index(token) for token in SPECIAL_TOKENS}

    def call(self, text: Tensor) -> tf.RaggedTensor:
        """The ids of `text`."""
        text = self._strings(text)
        if isinstance(text, tf.RaggedTensor):
            return text.with_values(self.call(text.values))
        words, _, _ = split_words(normalize(text, self.lowercase))  # [B, (words)]
        return self._wordpiece().tokenize(self._cut(words)).merge_dims(-2, -1)  # [B, (T)]

    def tokenize_with_offsets(
        self, text: Tensor, whole_words: bool = False
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """The ids of `text`, and where in the text each token begins and ends.

        Args:
            text: as in a call.
            whole_words: whether the begin and the end are those of the token's whole word.

        Returns:
            Three ragged int32 tensors `[B, (T)]`: the ids, the first byte of each token in the
            original string, and the byte after its last, accents included.
        """
        text = self._strings(text)
        if isinstance(text, tf.RaggedTensor):
            parts = self.tokenize_with_offsets(text.values, whole_words)
            return tuple(text.with_values(part) for part in parts)
        normal = normalize(text, self.lowercase)
        words, word_begins, word_ends = split_words(normal)  # [B, (words)]
        ids, begins, ends = self._wordpiece().tokenize_with_offsets(self._cut(words))
        word = ids.values.value_rowids()  # the number of each token's word in the batch
        before = tf.cumsum(tf.cast(tf.strings.length(normal), tf.int64), exclusive=True)
        word_begins, word_ends = (
            tf.gather(place.flat_values + tf.gather(before, place.value_rowids()), word)
            for place in (word_begins, word_ends)
        )
        whole = (ids.flat_values == self.unk_id) | whole_words
        first = tf.where(whole, word_begins, word_begins + begins.flat_values)
        last = tf.where(whole, word_ends, word_begins + ends.flat_values) - 1
        source_begins, source_ends = sources(text, self.lowercase)
        ids = ids.merge_dims(-2, -1)  # [B, (T)]
        return (
            ids,
            ids.with_values(tf.cast(tf.gather(source_begins, first), tf.int32)),
            ids.with_values(tf.cast(tf.gather(source_ends, last), tf.int32)),
        )

    def tokens(self, ids: Tensor) -> tf.Tensor | tf.RaggedTensor:
        """The tokens as strings, in the shape of `ids`."""
        return tf.ragged.map_flat_values(
            lambda flat: tf.gather(tf.constant(self.vocabulary), flat),
            token_ids(ids, len(self.vocabulary)),
        )

    def pieces(self, ids: Tensor) -> tf.Tensor | tf.RaggedTensor:
        """The earlier name of `tokens`; deprecated."""
        warnings.warn("`pieces` is deprecated: use `tokens`", DeprecationWarning, stacklevel=2)
        return self.tokens(ids)

    def detokenize(self, ids: Tensor) -> tf.Tensor:
        """Join rows of ids, `[B, T]` dense or ragged, to strings, `[B]`.

        [PAD], [CLS] and [SEP] are left out, tokens with "##" are joined to the token before them,
        and words are separated by a space. Spaces, case and accents of the original are lost.
        """
        ids = token_ids(ids, len(self.vocabulary))
        left_out = tf.constant([self.pad_id, self.cls_id, self.sep_id], ids.dtype)
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(ids)
        kept = tf.ragged.map_flat_values(
            lambda flat: tf.reduce_all(flat[:, None] != left_out, axis=-1), ids
        )
        tokens = self.tokens(tf.ragged.boolean_mask(ids, kept))
        text = tf.strings.reduce_join(tokens, axis=-1, separator=" ")
        return tf.strings.regex_replace(text, " ##", "")

    def compute_output_spec(self, text: keras.KerasTensor) -> keras.KerasTensor:
        """The symbolic output."""
        return symbolic_ids(self, text)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "vocabulary": self.vocabulary,
            "lowercase": self.lowercase,
        }

    def _strings(self, text: Tensor) -> tf.Tensor | tf.RaggedTensor:
        text = strings("text", text)
        if not isinstance(text, tf.RaggedTensor) and text.shape.rank != 1:
            raise ValueError(f"`text` must have the shape [B], got {text.shape}")
        return text

    def _cut(self, words: tf.RaggedTensor) -> tf.RaggedTensor:
        """The words, [UNK] for those that are too long."""
        too_long = tf.strings.length(words.flat_values, unit="UTF8_CHAR") > _LONGEST_WORD
        unknown = marked("[UNK]", self.lowercase)
        return words.with_flat_values(tf.where(too_long, unknown, words.flat_values))

    def _wordpiece(self) -> tf_text.WordpieceTokenizer:
        if self._tokenizer is None:
            tokens = [
                marked(token, self.lowercase) if token in SPECIAL_TOKENS else token
                for token in self.vocabulary
            ]
            # Not in the graph of the first call: later calls use the table too.
            with tf.init_scope():
                ids = tf.range(len(tokens), dtype=tf.int64)
                initializer = tf.lookup.KeyValueTensorInitializer(tokens, ids)
                # An attribute of its own, so that TensorFlow tracks it into a SavedModel.
                self._table = tf.lookup.StaticVocabularyTable(initializer, 1)
            self._tokenizer = tf_text.WordpieceTokenizer(
                self._table,
                token_out_type=tf.int32,
                unknown_token=marked("[UNK]", self.lowercase),
                max_bytes_per_word=4 * _LONGEST_WORD,
            )
        return self._tokenizer
