"""Finds the most probable split of words into tokens of a unigram language model, in the graph.

Letters: W words, Ch characters of all words (flat), K characters of the longest token found in
them, V vocabulary, T tokens (ragged).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_attn.data._tensorflow import tf
from keras_attn.data.text.spans import show_zeros

_PENALTY = 10.0  # the score of an unknown character is that of the rarest token minus this
_CODES = 0x110000  # code points of Unicode


class Unigrams:
    """A vocabulary with the log probability of each token.

    The search is the same as in the package `tokenizers`, in float64. Of equally likely splits it
    takes the one whose last token is the longest. Neighbouring unknown characters become one
    unknown token, or their bytes if the vocabulary has tokens for them.

    Args:
        tokens: the vocabulary in the order of its ids, V tokens; of equal tokens the last counts.
        scores: the log probabilities.
        unknown: the id of the token for unknown text.
        byte_ids: the ids of the 256 tokens for single bytes, or None.

    Source: Kudo 2018, section 3.2.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        scores: Sequence[float],
        unknown: int,
        byte_ids: Sequence[int] | None = None,
    ):
        self._unknown = unknown
        self._byte_ids = None if byte_ids is None else np.array(byte_ids, np.int32)
        self._missing = len(tokens)  # the id for a character that is not a token
        self._scores = np.array([*scores, min(scores) - _PENALTY, -np.inf])
        # The tokens as a tree of characters: a node and a character give the next node.
        nodes: dict[tuple[int, int], int] = {}
        ids = [-1]
        for index, token in enumerate(tokens):
            node = 0
            for character in token:
                node = nodes.setdefault((node, ord(character)), len(nodes) + 1)
                if node == len(ids):
                    ids.append(-1)
            ids[node] = index if node else -1
        self._ids = np.array(ids, np.int32)
        keys = np.array([node * _CODES + code for node, code in nodes], np.int64)
        initializer = tf.lookup.KeyValueTensorInitializer(
            keys, np.array(list(nodes.values()), np.int64)
        )
        self.table = tf.lookup.StaticHashTable(initializer, -1)
        # A graph in eager code too: the loops take a step for each character of a word.
        self._split = tf.function(
            self._likeliest, [tf.TensorSpec([None], tf.string)], autograph=False
        )

    def __call__(self, words: tf.Tensor) -> tf.RaggedTensor:
        """The ids `[W, (T)]` of words `[W]`."""
        return self._split(words)

    def _likeliest(self, words: tf.Tensor) -> tf.RaggedTensor:
        count = tf.size(words, tf.int64)
        words = tf.concat([show_zeros(words), ["a"]], 0)  # one more, so that there is never none
        codes = tf.strings.unicode_decode(words, "UTF-8")  # [W, (Ch)]
        chars, row = codes.flat_values, codes.value_rowids()
        ids = self._matches(chars, tf.gather(codes.row_limits(), row))  # [K, Ch]
        place = tf.range(tf.size(chars, tf.int64))
        begin = tf.gather(codes.row_starts(), row)
        chosen = self._choices(ids, place - begin, row, codes.row_lengths())
        length = tf.shape(ids, tf.int64)[0] - chosen
        last = place == tf.gather(codes.row_limits(), row) - 1
        before = place - length
        ends = _path(tf.where(before < begin, tf.constant(-1, tf.int64), before), last)
        tokens = tf.gather_nd(ids, tf.stack([chosen, place], -1))
        tokens, chars, row = (tf.boolean_mask(part, ends) for part in (tokens, chars, row))
        tokens, row = self._known(tokens, chars, row)
        inside = row < count
        return tf.RaggedTensor.from_value_rowids(
            tf.boolean_mask(tokens, inside),
            tf.boolean_mask(row, inside),
            nrows=count,
            validate=False,
        )

    def _matches(self, chars: tf.Tensor, limits: tf.Tensor) -> tf.Tensor:
        """The token `[K, Ch]` of each length that ends with each character, the longest first."""
        size = tf.size(chars, tf.int64)

        def longer(length: tf.Tensor, place: tf.Tensor, node: tf.Tensor, ids: tf.Tensor):
            inside = place + length < tf.gather(limits, place)
            place, node = tf.boolean_mask(place, inside), tf.boolean_mask(node, inside)
            code = tf.cast(tf.gather(chars, place + length), tf.int64)
            node = self.table.lookup(node * _CODES + code)
            place, node = tf.boolean_mask(place, node >= 0), tf.boolean_mask(node, node >= 0)
            found = tf.tensor_scatter_nd_update(
                tf.fill([size], -1), (place + length)[:, None], tf.gather(self._ids, node)
            )
            return length + 1, place, node, tf.concat([ids, found[None]], 0)

        vector = tf.TensorShape([None])
        ids = tf.while_loop(
            lambda length, place, *_: (length == 0) | (tf.size(place) > 0),
            longer,
            (
                tf.constant(0, tf.int64),
                tf.range(size),
                tf.zeros([size], tf.int64),
                tf.zeros([0, size], tf.int32),
            ),
            shape_invariants=(tf.TensorShape([]), vector, vector, tf.TensorShape([None, None])),
        )[-1]
        single = tf.where(ids[:1] < 0, self._missing, ids[:1])
        return tf.reverse(tf.concat([single, ids[1:]], 0), [0])

    def _choices(
        self, ids: tf.Tensor, place: tf.Tensor, row: tf.Tensor, lengths: tf.Tensor
    ) -> tf.Tensor:
        """The last token `[Ch]`, 0 to K - 1, of the most probable split up to each character.

        Each step handles one character of every word. Words are sorted by length, the longest
        first, so that those which have a next character are always the first ones.
        """
        rank = tf.argsort(tf.argsort(-lengths, stable=True))
        order = tf.argsort(
            place * tf.size(lengths, tf.int64) + tf.cast(tf.gather(rank, row), tf.int64)
        )
        counts = tf.math.bincount(tf.cast(place, tf.int32))  # words longer than each place
        offsets = tf.cumsum(counts, exclusive=True)
        scores = tf.gather(self._scores, tf.where(ids < 0, self._missing + 1, ids))
        scores = tf.gather(tf.transpose(scores), order)  # [Ch, K]
        longest, size = tf.size(counts), tf.shape(scores)[1]
        choices = tf.TensorArray(tf.int64, longest, infer_shape=False, element_shape=[None])

        def step(at: tf.Tensor, before: tf.Tensor, choices: tf.TensorArray):
            here = counts[at]
            before = before[:here]
            total = scores[offsets[at] : offsets[at] + here] + before
            best = tf.reduce_max(total, 1, keepdims=True)
            before = tf.concat([before[:, 1:], best], 1)
            return at + 1, before, choices.write(at, tf.argmax(total, 1))

        # The scores up to the K places before a character; a word begins with score 0.
        before = tf.fill([counts[0], size], tf.constant(-np.inf, tf.float64))
        before = tf.concat([before[:, 1:], tf.zeros([counts[0], 1], tf.float64)], 1)
        choices = tf.while_loop(
            lambda at, *_: at < longest,
            step,
            (tf.constant(0), before, choices),
            shape_invariants=(
                tf.TensorShape([]),
                tf.TensorShape([None, None]),
                tf.TensorShape(None),
            ),
        )[-1].concat()
        return tf.scatter_nd(order[:, None], choices, tf.shape(order))

    def _known(
        self, tokens: tf.Tensor, chars: tf.Tensor, row: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Tokens and the numbers of their words, with unknown characters replaced."""
        unknown = tokens == self._missing
        if self._byte_ids is None:
            again = unknown[1:] & unknown[:-1] & (row[1:] == row[:-1])
            first = tf.concat([[True], ~again], 0)
            tokens = tf.where(unknown, self._unknown, tokens)
            return tf.boolean_mask(tokens, first), tf.boolean_mask(row, first)
        text = tf.strings.unicode_encode(tf.where(unknown, chars, 0)[:, None], "UTF-8")
        text = tf.where(unknown, text, "")
        byte = tf.io.decode_raw(tf.strings.reduce_join(text), tf.uint8)
        byte = tf.gather(self._byte_ids, tf.cast(byte, tf.int32))
        byte = tf.RaggedTensor.from_row_lengths(byte, tf.strings.length(text), validate=False)
        known = tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(tokens, ~unknown), tf.cast(~unknown, tf.int64), validate=False
        )
        tokens = tf.concat([tf.cast(byte, tf.int32), known.with_row_splits_dtype(tf.int32)], 1)
        return tokens.flat_values, tf.gather(row, tokens.value_rowids())


def _path(before: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """Whether a token of the best split ends at each character `[Ch]`.

    Args:
        before: the end of the token before the one that ends at each character; -1 for none.
        last: whether each character is the last of its word.

    The number of steps back doubles in each iteration: one token, then two, four and so on.
    """
    size = tf.size(before, tf.int64)
    before = tf.concat([tf.where(before < 0, size, before), [size]], 0)
    ends = tf.concat([tf.cast(last, tf.int32), [0]], 0)

    def double(steps: tf.Tensor, ends: tf.Tensor, before: tf.Tensor):
        reached = tf.math.unsorted_segment_max(ends, before, size + 1)
        return steps * 2, tf.maximum(ends, reached), tf.gather(before, before)

    _, ends, _ = tf.while_loop(
        lambda steps, *_: steps <= size,
        double,
        (tf.constant(1, tf.int64), ends, before),
    )
    return ends[:-1] > 0
