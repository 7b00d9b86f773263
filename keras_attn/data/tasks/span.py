"""The layers before and after a span model: windows of long contexts, answers to questions.

Letters: B batch, Wn windows, T tokens of the longest row in the batch, R tokens of context in a
window.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from keras_attn._checks import check_count, is_integer
from keras_attn._keras import register
from keras_attn._typing import Config, Nested, Tensor
from keras_attn.data._tensorflow import integers, require, same_rows, strings, tf
from keras_attn.data.tasks.layers import PostprocessorLayer, PreprocessorLayer
from keras_attn.data.text.segments import look_up
from keras_attn.data.text.tokenizer import BertTokenizer

_NEVER = -1e9


@register()
class SpanPreprocessor(PreprocessorLayer):
    """A row [CLS] question [SEP] window [SEP] for each window of a question's context.

    RoBERTa's tokenizers put two [SEP] between question and window.

    A context that is too long for one row is cut into overlapping windows. The offsets of each
    token in the context are kept, so that answers are exact parts of the context.

    Args:
        tokenizer: a `BertTokenizer`, the argument of one, or a `BytePairTokenizer`.
        length: the maximum number of tokens in a row.
        question_length: the maximum number of tokens of a question; a longer one is cut at the end.
        overlap: the number of tokens of context that a window shares with the one before.
        whole_words: whether the offsets of a token are those of its whole word, so that answers
            are whole words.

    Call arguments:
        question: strings `[B]`.
        context: strings `[B]`.
        answer: strings `[B]`, "" where there is no answer; None to predict.
        answer_start: int `[B]`, the character in the context at which the answer starts.

    Returns:
        A dict: `token_ids` int32, `segment_ids` int32 and `padding_mask` bool, each `[B, Wn, T]`,
        and `offsets` int32 `[B, Wn, T, 2]`: the first byte of a token in the context and the byte
        after its last, -1 outside the context. With an answer, a triple for `model.fit`, once B and
        Wn are merged and `offsets` is left out: this dict; a dict of `start` and `end` int32
        `[B, Wn]`, 0 where the answer is not in the window; the sample weights float32 `[B, Wn]`, 0
        at windows that are padding.

    Raises:
        ValueError: the tokenizer is of another class, or `length` is too small for the question and
            the overlap; in a call, an answer has no `answer_start`, there is not one question,
            answer and start for each context, or an answer is not in its context at its start (in a
            graph an InvalidArgumentError).

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

    Source: Devlin et al. 2019, sections 4.2 and 4.3.
    """

    text_inputs = ("question", "context")

    def __init__(
        self,
        tokenizer: BertTokenizer | Sequence[str] | str | os.PathLike,
        length: int,
        question_length: int = 64,
        overlap: int = 128,
        whole_words: bool = False,
        **kwargs: Any,
    ):
        super().__init__(tokenizer, length, **kwargs)
        if not hasattr(self.tokenizer, "tokenize_with_offsets"):
            raise ValueError(
                "`tokenizer` must have `tokenize_with_offsets`, as BertTokenizer and "
                f"BytePairTokenizer have, got {type(self.tokenizer).__name__}"
            )
        self.question_length = check_count("question_length", question_length)
        special = 2 + self.tokenizer.separators
        self.window_length = self.length - special - self.question_length
        if not is_integer(overlap) or not 0 <= overlap < self.window_length:
            raise ValueError(
                "`length` must leave more space than `overlap` after `question_length` and "
                f"{special} special tokens, got {length}, {overlap} and {question_length}"
            )
        self.overlap = int(overlap)
        self.whole_words = whole_words

    def call(
        self,
        question: Tensor,
        context: Tensor,
        answer: Tensor | None = None,
        answer_start: Tensor | None = None,
    ) -> Nested:
        """The rows of the windows."""
        context = strings("context", context)
        question = same_rows("question", strings("question", question), "context", context)
        question = self.tokenizer(question)[:, : self.question_length]
        tokens, begins, ends = self.tokenizer.tokenize_with_offsets(context, self.whole_words)
        step = self.window_length - self.overlap
        counts = tf.maximum(-(-(tokens.row_lengths() - self.overlap) // step), 1)  # [B]
        example = tf.repeat(tf.range(tf.size(counts)), counts)  # [rows]
        window = tf.range(tf.size(example, tf.int64)) - tf.gather(
            tf.cumsum(counts, exclusive=True), example
        )
        first = window * step
        size = tf.minimum(tf.gather(tokens.row_lengths(), example) - first, self.window_length)
        base = tf.gather(tokens.row_starts(), example) + first
        places = tf.ragged.range(base, base + size)  # [rows, (R)]
        question = tf.gather(question, example)
        rows = self._pack([question, tf.gather(tokens.flat_values, places)])
        # [CLS], the question and what separates it from the context
        before = question.row_lengths() + 1 + self.tokenizer.separators
        column = tf.range(tf.shape(rows["token_ids"], tf.int64)[1]) - before[:, None]  # [rows, T]
        shown = (column >= 0) & (column < size[:, None])
        rows["offsets"] = tf.stack(
            [
                look_up(places_of.flat_values, base[:, None] + column, shown, -1)
                for places_of in (begins, ends)
            ],
            axis=-1,
        )  # [rows, T, 2]
        fill = {"token_ids": self.tokenizer.pad_id, "offsets": -1}
        features = {
            name: _to_windows(row, counts, fill.get(name, 0)) for name, row in rows.items()
        }  # [B, Wn, T]
        if answer is None:
            return features
        start, end = self._answer(context, answer, answer_start, begins, ends)  # tokens, [B]
        start, end = (tf.gather(place, example) - first for place in (start, end))
        inside = (start >= 0) & (end < size)
        labels = {
            name: _to_windows(tf.where(inside, tf.cast(before + place, tf.int32), 0), counts)
            for name, place in (("start", start), ("end", end))
        }
        return features, labels, _to_windows(tf.ones_like(first, tf.float32), counts)

    def answers(self, context: Tensor, offsets: Tensor, start: Tensor, end: Tensor) -> tf.Tensor:
        """The text `[B]` from the token at `start` `[B]` to the token at `end` `[B]`.

        The offsets are those of one window, `[B, T, 2]`. The text is "" if one of the two tokens
        is not in the context, such as [CLS], or if the end is before the start.
        """
        return _text(context, tf.convert_to_tensor(offsets), start, end)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "question_length": self.question_length,
            "overlap": self.overlap,
            "whole_words": self.whole_words,
        }

    def _answer(
        self,
        context: tf.Tensor,
        answer: Tensor | None,
        answer_start: Tensor | None,
        begins: tf.RaggedTensor,
        ends: tf.RaggedTensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The first and the last token of each answer in its context; -1 where there is none."""
        if answer_start is None:
            raise ValueError("`answer_start` must be given with `answer`, got None")
        answer = same_rows("answer", strings("answer", answer), "context", context)
        starts = same_rows(
            "answer_start", integers("answer_start", answer_start), "context", context
        )
        characters = tf.maximum(starts, 0)
        lead = tf.strings.substr(context, tf.zeros_like(characters), characters, unit="UTF8_CHAR")
        first = tf.strings.length(lead)  # bytes
        length = tf.strings.length(answer)
        first = tf.minimum(first, tf.strings.length(context))
        right = tf.strings.substr(context, first, length) == answer
        with require(right, answer, "`answer` must be in `context` at `answer_start`"):
            touched = (ends > first[:, None]) & (begins < (first + length)[:, None])
        touched = tf.pad(touched.to_tensor(), [[0, 0], [0, 1]])  # [B, P + 1], not empty
        some = tf.reduce_any(touched, axis=1) & (length > 0)
        start = tf.argmax(tf.cast(touched, tf.int32), axis=1)
        end = start + tf.reduce_sum(tf.cast(touched, tf.int64), axis=1) - 1
        return tuple(tf.where(some, place, -1) for place in (start, end))


def _to_windows(values: tf.Tensor, counts: tf.Tensor, filling: int = 0) -> tf.Tensor:
    rows = tf.RaggedTensor.from_row_lengths(values, counts, validate=False)
    return rows.to_tensor(tf.cast(filling, values.dtype))  # [B, Wn, ...]


def _text(context: Tensor, offsets: tf.Tensor, start: Tensor, end: Tensor) -> tf.Tensor:
    """The text `[B]` of the tokens from `start` to `end`; "" if they are no answer."""
    first = tf.gather(offsets[..., 0], start, batch_dims=1)
    last = tf.gather(offsets[..., 1], end, batch_dims=1)
    size = tf.where((first >= 0) & (last > first), last - first, 0)
    return tf.strings.substr(context, tf.maximum(first, 0), size)


@register()
class SpanPostprocessor(PostprocessorLayer):
    """The best answer of all windows: the greatest start[i] + end[j] with i <= j < i + `longest`.

    The score of "no answer" is the logits at [CLS], the smallest of all windows. If no answer has a
    greater score, the answer is "".

    Args:
        longest: the maximum number of tokens in an answer.

    Call arguments:
        outputs: a dict of logits, "start" and "end", each `[B, Wn, T]`, or `[B, T]` for one window.
        features: the output of `SpanPreprocessor`, with the strings "context" `[B]`. Without
            "offsets" and "context" there is no `answer` in the result.

    Returns:
        A dict, each `[B]`: `answer` strings, as in the context; `score` float32, the score of the
        answer minus that of "no answer"; `window`, `start` and `end` int32, the window of the
        answer and its first and last token, 0 if there is no answer.

    Raises:
        ValueError: `longest` is not a positive integer.

    Example:
    >>> logits = {"start": [[0.0, 1.0, 9.0, 0.0]], "end": [[0.0, 8.0, 0.0, 7.0]]}
    >>> offsets = [[[-1, -1], [0, 3], [4, 8], [9, 13]]]
    >>> features = {"offsets": offsets, "context": ["Ann sang loud"]}
    >>> SpanPostprocessor()(logits, features)["answer"].numpy().tolist()
    [b'sang loud']

    Source: Devlin et al. 2019, sections 4.2 and 4.3.
    """

    def __init__(self, longest: int = 30, **kwargs: Any):
        super().__init__(**kwargs)
        self.longest = check_count("longest", longest)

    def call(self, outputs: Nested, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The answers in the text."""
        start, end = (tf.cast(outputs[name], tf.float32) for name in ("start", "end"))
        batch, length = tf.shape(start)[0], tf.shape(start)[-1]
        windows = tf.shape(start)[1] if start.shape.rank == 3 else 1
        shape = [batch, windows, length]
        start, end, allowed = (
            tf.reshape(tensor, shape) for tensor in (start, end, _allowed(features))
        )
        at_cls = tf.reduce_sum(start[..., :1] + end[..., :1], axis=-1)  # [B, Wn]
        none = tf.where(tf.reduce_any(allowed, -1), at_cls, -_NEVER)
        none = tf.reduce_min(none, axis=1)  # [B]
        place = tf.range(length)
        ahead = place[None] - place[:, None]
        pairs = start[..., None] + end[..., None, :]  # [B, Wn, T, T]
        possible = allowed[..., None] & allowed[..., None, :]
        possible &= (ahead >= 0) & (ahead < self.longest)
        pairs = tf.reshape(tf.where(possible, pairs, _NEVER), [batch, windows * length**2])
        pairs = tf.pad(pairs, [[0, 0], [0, 1]], constant_values=_NEVER)  # so that it is not empty
        best = tf.argmax(pairs, axis=-1, output_type=tf.int32)
        score = tf.reduce_max(pairs, axis=-1) - none
        found = tf.where(score > 0, best, 0)
        width = tf.maximum(length, 1)
        window, first, last = found // width**2, found // width % width, found % width
        answer = {"score": score, "window": window, "start": first, "end": last}
        if "context" in features:
            offsets = tf.reshape(features["offsets"], [*shape, 2])
            offsets = tf.gather(offsets, window, batch_dims=1)
            answer["answer"] = _text(features["context"], offsets, first, last)
        return answer

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {**super().get_config(), "longest": self.longest}


def _allowed(features: dict[str, tf.Tensor]) -> tf.Tensor:
    """Where an answer may start or end: the tokens of the context."""
    if "offsets" in features:
        return tf.convert_to_tensor(features["offsets"])[..., 0] >= 0
    real = tf.cast(features["padding_mask"], tf.bool)
    return real & (tf.convert_to_tensor(features["segment_ids"]) == 1)
