"""The layers before and after a tagger.

Letters: B batch, C tags, W words, T tokens of the longest row in the batch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

from keras_attn._keras import register
from keras_attn._typing import Config, Nested, Tensor
from keras_attn.data._tensorflow import ragged_strings, require, same_rows, tf
from keras_attn.data.tasks.classification import check_labels, most_probable
from keras_attn.data.tasks.layers import PostprocessorLayer, PreprocessorLayer
from keras_attn.data.text.tokenizer import BertTokenizer

ONE_TAG = "`tags` must have one tag for each word"


@register()
class WordsPreprocessor(PreprocessorLayer):
    """BERT's rows, made of lists of words; the first token of a word has the word's tag.

    A word without visible characters becomes [UNK], so that every word has a token. Only a servable
    takes empty strings at the end of a row as padding, since rows of a request have equal lengths.

    Args:
        tokenizer: as in `BertPreprocessor`.
        length: the maximum number of tokens in a row; words that do not fit are left out.
        tags: the names of the tags, in the order of their numbers.

    Call arguments:
        words: strings, ragged `[B, (W)]`.
        tags: strings, ragged `[B, (W)]`, or None to predict.

    Returns:
        Without `tags` a dict: `token_ids` int32, `segment_ids` int32 and `padding_mask` bool, each
        `[B, T]`. With `tags` a triple for `model.fit`: this dict, the numbers of the tags int32
        `[B, T]`, and the sample weights float32 `[B, T]`, 1 at the first token of each word.

    Raises:
        ValueError: `tags` is empty or repeats a name; in a call, the words have the wrong shape,
            there is not one tag for each word, or a tag is not among `tags` (in a graph an
            InvalidArgumentError).

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> layer = WordsPreprocessor(vocabulary, length=8, tags=["O", "B-ACT"])
    >>> features, tags, weights = layer([["playing", "!"]], [["B-ACT", "O"]])
    >>> features["token_ids"].numpy().tolist(), tags.numpy().tolist(), weights.numpy().tolist()
    ([[2, 5, 6, 7, 3]], [[0, 1, 0, 0, 0]], [[0.0, 1.0, 0.0, 1.0, 0.0]])

    Source: Devlin et al. 2019, section 5.3.
    """

    text_inputs = ("words",)

    def __init__(
        self,
        tokenizer: BertTokenizer | Sequence[str] | str | os.PathLike,
        length: int,
        tags: Sequence[str],
        **kwargs: Any,
    ):
        super().__init__(tokenizer, length, **kwargs)
        if not tags or len(set(tags)) < len(tags):
            raise ValueError(f"`tags` must be different names, got {list(tags)}")
        self.tags = list(tags)

    def call(self, words: Tensor, tags: Tensor | None = None) -> Nested:
        """The rows of the words."""
        tokens = self._tokens(words)  # [B, (W), (tokens)]
        rows = tokens.merge_dims(1, 2)
        features = self._pack([rows])
        if tags is None:
            return features
        words = ragged_strings("words", words)
        tags = same_rows("tags", ragged_strings("tags", tags), "words", words)
        equal = tags.row_lengths() == tokens.row_lengths()
        with require(equal, tf.strings.reduce_join(words, -1, separator=" "), ONE_TAG):
            tags = tags.with_values(tf.identity(tags.values))
        word = tokens.values.value_rowids()  # the number of each token's word in the batch
        numbers = tf.gather(self._numbers(tags.flat_values), word)
        first = self._first(tokens)
        numbers = self._place(rows.with_values(tf.where(first, numbers, 0)))
        return features, numbers, self._place(rows.with_values(tf.cast(first, tf.float32)))

    def first_pieces(self, words: Tensor) -> tf.Tensor:
        """Deprecated. Which tokens of each row begin a word, bool `[B, T]`."""
        warnings.warn(
            "`first_pieces` is deprecated: a call with tags returns this as sample weights",
            DeprecationWarning,
            stacklevel=2,
        )
        tokens = self._tokens(words)
        return self._place(tokens.merge_dims(1, 2).with_values(self._first(tokens)))

    def examples(self, tokens: int, batch: int) -> dict[str, list]:
        """Words with about `tokens` tokens in total."""
        return {"words": [text.split() for text in super().examples(tokens, batch)["words"]]}

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {**super().get_config(), "tags": self.tags}

    def _tokens(self, words: Tensor) -> tf.RaggedTensor:
        tokens = self.tokenizer(ragged_strings("words", words))
        empty = tf.cast(tokens.values.row_lengths() == 0, tf.int64)
        unknown = tf.RaggedTensor.from_row_lengths(
            tf.fill([tf.reduce_sum(empty)], self.tokenizer.unk_id), empty, validate=False
        )
        return tokens.with_values(tf.concat([tokens.values, unknown], axis=1))

    def _first(self, tokens: tf.RaggedTensor) -> tf.Tensor:
        starts = tokens.values.row_starts()
        place = tf.range(tf.size(tokens.flat_values, tf.int64))
        return place == tf.gather(starts, tokens.values.value_rowids())

    def _place(self, row: tf.RaggedTensor) -> tf.Tensor:
        """Values for each token, cut and padded as the tokens are, 0 at [CLS] and [SEP]."""
        return tf.pad(row[:, : self.length - 2].to_tensor(), [[0, 0], [1, 1]])  # [B, T]

    def _numbers(self, tags: tf.Tensor) -> tf.Tensor:
        same = tags[:, None] == tf.constant(self.tags)[None]  # [words, tags]
        known = tf.reduce_any(same, axis=1)
        with require(known, tags, f"`tags` must be among {', '.join(self.tags)}"):
            return tf.cast(tf.argmax(tf.cast(same, tf.int32), axis=1), tf.int32)


@register()
class TaggingPostprocessor(PostprocessorLayer):
    """The tokens of each row with their most probable tags.

    Args:
        tokenizer: a `BertTokenizer`, or the argument of one: a list of tokens or a vocab.txt.
        labels: the names of the tags, in the order of the logits.

    Call arguments:
        outputs: logits `[B, T, C]`.
        features: what the preprocessor returned; "token_ids" and "padding_mask" are read.

    Returns:
        A dict: `tokens` strings `[B, T]`, `tags` strings `[B, T]`, both "" at padding;
        `probabilities` float32 `[B, T, C]`. `pieces` is the earlier name of `tokens`, as in
        `MaskedLMPostprocessor`.

    Raises:
        ValueError: `labels` is empty, or its length is not the number of logits.

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> tagger = TaggingPostprocessor(vocabulary, ["word", "mark"])
    >>> features = {"token_ids": [[5, 7]], "padding_mask": [[True, True]]}
    >>> tagger([[[1.0, 0.0], [0.0, 1.0]]], features)["tags"].numpy().tolist()
    [[b'word', b'mark']]
    """

    def __init__(self, tokenizer: Any, labels: Sequence[str], **kwargs: Any):
        super().__init__(tokenizer, **kwargs)
        self.labels = check_labels(labels)

    def call(self, outputs: Nested, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """A tag for each token."""
        answer = most_probable(tf.convert_to_tensor(outputs), self.labels, "tags")
        real = tf.cast(features["padding_mask"], tf.bool)
        tokens = tf.where(real, self.tokenizer.tokens(features["token_ids"]), "")
        return {
            "tokens": tokens,
            "pieces": tokens,
            "tags": tf.where(real, answer["tags"], ""),
            "probabilities": answer["probabilities"],
        }

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {**super().get_config(), "labels": self.labels}
