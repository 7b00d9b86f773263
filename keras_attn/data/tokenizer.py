"""Strings to the ids of the original BERT, in the graph, with operations that old servers know.

B batch, T pieces of a row (ragged), V vocabulary.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from typing import Any

import keras

from keras_attn._register import register
from keras_attn.data._imports import tf, tf_text
from keras_attn.data.packing import check_ids
from keras_attn.data.vocabulary import SPECIAL_TOKENS, check_vocabulary, read_vocabulary

# Cleaning deletes private-use characters from the text, so that they are free to stand for the
# special tokens through lower-casing, splitting and look-up.
_SENTINELS = {token: chr(0xE000 + index) for index, token in enumerate(SPECIAL_TOKENS)}
# Words of their own, from BERT's basic tokenizer: ASCII marks, Unicode punctuation, Chinese.
_ALONE = (
    r"[!-/:-@\[-`{-~\p{P}"
    r"\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}"
    r"\x{2B740}-\x{2B81F}\x{2B820}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}]"
)
_SPLIT = " +|" + _ALONE
_LONGEST_WORD = 100  # characters; BERT's word pieces give [UNK] for a longer one


@register()
class BertTokenizer(keras.layers.Layer):
    """Splits strings into WordPiece ids, equal to the original BERT's.

    Control characters are deleted; with `lowercase` the text is lower-cased, decomposed (NFD) and
    stripped of accents; it is split at spaces, punctuation and Chinese characters; each word
    becomes its longest pieces from left to right, "##" marking those that go on, or [UNK].
    A special token written out in a string, such as "[MASK]", becomes its id.

    It works eagerly, in `tf.data`, in a functional model with
    `keras.Input(shape=(), dtype="string")` (TensorFlow backend) and in a SavedModel. The
    vocabulary is part of the config: a `.keras` file needs no vocabulary file beside it. Invalid
    UTF-8 bytes are dropped, as a server must answer all the same.

    Args:
        vocabulary: the pieces in the order of their ids, or the path of a vocab.txt.
        lowercase: whether the vocabulary is uncased (lower case, no accents).

    Call arguments:
        text: strings, [B], or ragged of any depth.

    Returns:
        int32 ids, ragged [B, (T)]; one more ragged axis than `text`. Neither [CLS] nor [SEP] is
        added: `pack` does that.

    Raises:
        ValueError: if the vocabulary is empty, is not UTF-8, repeats a piece or misses one of
            [PAD], [UNK], [CLS], [SEP], [MASK]; if `text` has another shape.

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> tokenizer = BertTokenizer(vocabulary)
    >>> tokenizer(["Playing!", "[MASK] chess"]).to_list()
    [[5, 6, 7], [4, 1]]

    Reference: Devlin et al. 2018, "BERT", section 3, https://arxiv.org/abs/1810.04805
    """

    def __init__(
        self,
        vocabulary: Sequence[str] | str | os.PathLike,
        lowercase: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        # Strings must reach `call` as they are: no other backend has a tensor for them.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        source = "a list"
        if isinstance(vocabulary, (str, os.PathLike)):
            source = os.fspath(vocabulary)
            vocabulary = read_vocabulary(vocabulary)
        check_vocabulary(vocabulary, source)
        # One string: Keras and TensorFlow would wrap and watch every element of a list.
        self._pieces = "\n".join(vocabulary)
        self.lowercase = lowercase
        self._tokenizer = None
        self.built = True

    @property
    def vocabulary(self) -> list[str]:
        """The pieces, in the order of their ids."""
        return self._pieces.split("\n")

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

    def call(self, text: Any) -> tf.RaggedTensor:
        """The ids of `text`."""
        if not isinstance(text, tf.RaggedTensor):
            text = tf.convert_to_tensor(text)
        if text.dtype != tf.string:
            raise ValueError(f"`text` must hold strings, got {text.dtype.name}")
        if isinstance(text, tf.RaggedTensor):
            return text.with_values(self.call(text.values))
        if text.shape.rank != 1:
            raise ValueError(f"`text` must have the shape [B], got {text.shape}")
        words = tf_text.regex_split(self._normalize(text), _SPLIT, _ALONE)  # [B, (words)]
        too_long = tf.strings.length(words.flat_values, unit="UTF8_CHAR") > _LONGEST_WORD
        words = words.with_flat_values(tf.where(too_long, _SENTINELS["[UNK]"], words.flat_values))
        return self._word_pieces().tokenize(words).merge_dims(-2, -1)  # [B, (T)]

    def pieces(self, ids: Any) -> tf.Tensor | tf.RaggedTensor:
        """The pieces as strings, of the shape of `ids`."""
        return tf.ragged.map_flat_values(
            lambda flat: tf.gather(tf.constant(self.vocabulary), flat), self._checked(ids)
        )

    def detokenize(self, ids: Any) -> tf.Tensor:
        """Joins rows of ids, [B, T] dense or ragged, to strings, [B].

        [PAD], [CLS] and [SEP] are left out, "##" glues a piece to the one before, and a space
        stands between words: spaces, case and accents of the first text are not known any more.
        """
        ids = self._checked(ids)
        silent = tf.constant([self.pad_id, self.cls_id, self.sep_id], ids.dtype)
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(ids)
        heard = tf.ragged.map_flat_values(
            lambda flat: tf.reduce_all(flat[:, None] != silent, axis=-1), ids
        )
        pieces = self.pieces(tf.ragged.boolean_mask(ids, heard))
        text = tf.strings.reduce_join(pieces, axis=-1, separator=" ")
        return tf.strings.regex_replace(text, " ##", "")

    def compute_output_spec(self, text: keras.KerasTensor) -> keras.KerasTensor:
        """The symbolic outputs."""
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "BertTokenizer in a functional model needs the TensorFlow backend, got "
                f"{keras.backend.backend()}: map it over a tf.data.Dataset instead"
            )
        rank = 1 + (text.ragged_rank or 0)
        shape = (*text.shape, None)
        return keras.KerasTensor(shape, "int32", ragged=True, ragged_rank=rank)

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "vocabulary": self.vocabulary,
            "lowercase": self.lowercase,
        }

    def _normalize(self, text: tf.Tensor) -> tf.Tensor:
        """The original BERT's cleaning; each special token becomes its sentinel."""
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        text = tf.strings.regex_replace(text, r"[\t\n\r\p{Z}]", " ")
        text = tf.strings.regex_replace(text, r"[\p{Cc}\p{Cf}\p{Cs}\p{Co}\x{FFFD}]", "")
        for token, sentinel in _SENTINELS.items():
            text = tf.strings.regex_replace(text, re.escape(token), f" {sentinel} ")
        if self.lowercase:
            text = tf.strings.lower(text, encoding="utf-8")
            text = tf_text.normalize_utf8(text, "NFD")
            text = tf.strings.regex_replace(text, r"\p{Mn}", "")
        return text

    def _checked(self, ids: Any) -> tf.Tensor | tf.RaggedTensor:
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.convert_to_tensor(ids)
        check_ids(ids, len(self.vocabulary), "ids")
        return ids

    def _word_pieces(self) -> tf_text.WordpieceTokenizer:
        if self._tokenizer is None:
            pieces = [_SENTINELS.get(piece, piece) for piece in self.vocabulary]
            # The table outlives the graph in which the layer happens to be called first.
            with tf.init_scope():
                ids = tf.range(len(pieces), dtype=tf.int64)
                initializer = tf.lookup.KeyValueTensorInitializer(pieces, ids)
                # An attribute of its own, so that TensorFlow tracks it into a SavedModel.
                self._table = tf.lookup.StaticVocabularyTable(initializer, 1)
            self._tokenizer = tf_text.WordpieceTokenizer(
                self._table,
                token_out_type=tf.int32,
                unknown_token=_SENTINELS["[UNK]"],
                max_bytes_per_word=4 * _LONGEST_WORD,
            )
        return self._tokenizer
