"""Questions and long contexts to the inputs and labels of a span model.

B batch, W windows, T pieces of the longest row in the batch, R pieces of context in a window.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from keras_attn._register import register
from keras_attn.data._imports import tf, tf_text
from keras_attn.data._require import require
from keras_attn.data.bert_preprocessor import BertPreprocessor
from keras_attn.data.tokenizer import _ALONE, BertTokenizer

_SPLIT = r"[\t\n\r\p{Z}]+|" + _ALONE


@register()
class SpanPreprocessor(BertPreprocessor):
    """A question with each window of its context to a row [CLS] question [SEP] window [SEP].

    A context that is too long for one row is cut into windows that overlap. A piece keeps the
    place in the context of the word that it belongs to, so that answers come back as they were
    written.

    Args:
        tokenizer: and `length`, as in `BertPreprocessor`.
        length: as there.
        question_length: the most pieces of a question; a longer one loses its end.
        overlap: pieces of context that a window shares with the one before.

    Call arguments:
        question: strings `[B]`.
        context: strings `[B]`.
        answer: strings `[B]`, "" where there is no answer; None to predict.
        answer_start: int `[B]`, the character in the context at which the answer starts.

    Returns:
        A dict: `token_ids` int32, `segment_ids` int32 and `padding_mask` bool, each `[B, W, T]`,
        and `offsets` int32 `[B, W, T, 2]`: the first byte of a piece's word in the context and the
        one after its last, -1 outside the context. With an answer a triple, as `model.fit` takes
        it once B and W are merged: that; a dict of `start` and `end` int32 `[B, W]`, 0 where the
        answer is not in the window; and the weights float32 `[B, W]`, 0 at windows that only
        fill the batch.

    Raises:
        ValueError: lengths that leave no room for a step; an answer that does not stand in its
            context where it should (in a graph an InvalidArgumentError).

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "ann", "sang", "loud"]
    >>> layer = SpanPreprocessor(vocabulary, length=7, question_length=2, overlap=1)
    >>> context = ["Ann  sang loud"]
    >>> features, labels, _ = layer(["who sang"], context, ["sang loud"], [5])
    >>> features["token_ids"].numpy().tolist()
    [[[2, 5, 7, 3, 6, 7, 3], [2, 5, 7, 3, 7, 8, 3]]]
    >>> labels["start"].numpy().tolist(), labels["end"].numpy().tolist()
    ([[0, 4]], [[0, 5]])
    >>> layer.answers(context, features["offsets"][:, 1], [4], [5]).numpy().tolist()
    [b'sang loud']

    Reference: Devlin et al. 2018, "BERT", sections 4.2 and 4.3, https://arxiv.org/abs/1810.04805
    """

    text_inputs = ("question", "context")

    def __init__(
        self,
        tokenizer: BertTokenizer | Sequence[str] | str | os.PathLike,
        length: int,
        question_length: int = 64,
        overlap: int = 128,
        **kwargs: Any,
    ):
        super().__init__(tokenizer, length, **kwargs)
        self.room = length - 3 - question_length
        if question_length <= 0 or not 0 <= overlap < self.room:
            raise ValueError(
                "`length` must leave more room than `overlap` after `question_length` and three "
                f"special tokens, got {length}, {overlap} and {question_length}"
            )
        self.question_length = question_length
        self.overlap = overlap

    def call(
        self, question: Any, context: Any, answer: Any = None, answer_start: Any = None
    ) -> Any:
        """Rows of windows."""
        context = tf.convert_to_tensor(context)
        question = self.tokenizer(question)[:, : self.question_length]
        pieces, begins, ends = self._pieces(context)  # [B, (P)] each
        step = self.room - self.overlap
        counts = tf.maximum(-(-(pieces.row_lengths() - self.overlap) // step), 1)  # [B]
        example = tf.repeat(tf.range(tf.size(counts)), counts)  # [rows]
        window = tf.range(tf.size(example, tf.int64)) - tf.gather(
            tf.cumsum(counts, exclusive=True), example
        )
        first = window * step
        size = tf.minimum(tf.gather(pieces.row_lengths(), example) - first, self.room)
        base = tf.gather(pieces.row_starts(), example) + first
        places = tf.ragged.range(base, base + size)  # [rows, (R)]
        question = tf.gather(question, example)
        rows = self._pack([question, tf.gather(pieces.flat_values, places)])
        before = question.row_lengths() + 2  # [CLS], the question, [SEP]
        rows["offsets"] = tf.stack(
            [
                _shift(tf.gather(places_of.flat_values, places), before)
                for places_of in (begins, ends)
            ],
            axis=-1,
        )  # [rows, T, 2]
        fill = {"token_ids": self.tokenizer.pad_id, "offsets": -1}
        features = {
            name: tf.RaggedTensor.from_row_lengths(row, counts).to_tensor(
                tf.cast(fill.get(name, 0), row.dtype)
            )
            for name, row in rows.items()
        }  # [B, W, T]
        if answer is None:
            return features
        start, end = self._answer(context, answer, answer_start, begins, ends)  # pieces, [B]
        start, end = (tf.gather(place, example) - first for place in (start, end))
        inside = (start >= 0) & (end < size)
        labels = {
            name: _to_windows(tf.where(inside, tf.cast(before + place, tf.int32), 0), counts)
            for name, place in (("start", start), ("end", end))
        }
        return features, labels, _to_windows(tf.ones_like(first, tf.float32), counts)

    def answers(self, context: Any, offsets: Any, start: Any, end: Any) -> tf.Tensor:
        """The text `[B]` from the piece at `start` `[B]` to the one at `end`, of rows `[B, T, 2]`.

        "" where one of the two is no piece of the context, such as [CLS], or they are turned round.
        """
        first = tf.gather(offsets[..., 0], start, batch_dims=1)
        last = tf.gather(offsets[..., 1], end, batch_dims=1)
        right = (first >= 0) & (last > first)
        size = tf.where(right, last - first, 0)
        return tf.strings.substr(context, tf.maximum(first, 0), size)

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "question_length": self.question_length,
            "overlap": self.overlap,
        }

    def _pieces(self, context: tf.Tensor) -> tuple[tf.RaggedTensor, ...]:
        """The pieces of each context, and where in it their words begin and end."""
        words, begins, ends = tf_text.regex_split_with_offsets(context, _SPLIT, _ALONE)
        pieces = self.tokenizer(words)  # [B, (words), (pieces)]
        word = pieces.values.value_rowids()
        pieces = pieces.merge_dims(1, 2)
        begins, ends = (
            pieces.with_values(tf.cast(tf.gather(place.flat_values, word), tf.int32))
            for place in (begins, ends)
        )
        return pieces, begins, ends

    def _answer(
        self,
        context: tf.Tensor,
        answer: Any,
        answer_start: Any,
        begins: tf.RaggedTensor,
        ends: tf.RaggedTensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The first and the last piece of each answer in its context; -1 where there is none."""
        answer = tf.convert_to_tensor(answer)
        characters = tf.maximum(tf.convert_to_tensor(answer_start, tf.int32), 0)
        lead = tf.strings.substr(context, tf.zeros_like(characters), characters, unit="UTF8_CHAR")
        first = tf.strings.length(lead)  # bytes
        length = tf.strings.length(answer)
        first = tf.minimum(first, tf.strings.length(context))
        right = tf.strings.substr(context, first, length) == answer
        with require(right, answer, "`answer` must stand in `context` at `answer_start`"):
            touched = (ends > first[:, None]) & (begins < (first + length)[:, None])
        touched = tf.pad(touched.to_tensor(), [[0, 0], [0, 1]])  # [B, P + 1]: never empty
        some = tf.reduce_any(touched, axis=1) & (length > 0)
        start = tf.argmax(tf.cast(touched, tf.int32), axis=1)
        end = start + tf.reduce_sum(tf.cast(touched, tf.int64), axis=1) - 1
        return tuple(tf.where(some, place, -1) for place in (start, end))


def _shift(row: tf.RaggedTensor, before: tf.Tensor) -> tf.Tensor:
    """The row with `before` times -1 in front, and one behind for [SEP]."""
    lead = tf.RaggedTensor.from_row_lengths(-tf.ones([tf.reduce_sum(before)], row.dtype), before)
    return tf.concat([lead, row, -tf.ones([row.nrows(), 1], row.dtype)], axis=1).to_tensor(-1)


def _to_windows(values: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    return tf.RaggedTensor.from_row_lengths(values, counts).to_tensor()  # [B, W]
