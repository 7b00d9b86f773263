"""Splits strings into words and words into byte pairs, as GPT-2 does, in the graph.

Letters: B batch, W words (flat), T tokens (flat), M merges, V vocabulary.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np

from keras_attn.data._tensorflow import tf, tf_text
from keras_attn.data.text.spans import SPACE, SPACES, show_zeros

_WORD = rf"'(?:s|t|re|ve|m|ll|d)| ?\p{{L}}+| ?\p{{N}}+| ?[^{SPACE}\p{{L}}\p{{N}}]+|{SPACES}"


def _characters() -> list[str]:
    """The character that represents each byte in a vocabulary; spaces and controls have others."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    shown = dict(zip(visible, visible, strict=True))
    shown |= {byte: 256 + number for number, byte in enumerate(hidden)}
    return [chr(shown[byte]) for byte in range(256)]


CHARACTERS = _characters()
_BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}


def to_bytes(token: str) -> bytes:
    """The bytes that a token of a vocabulary represents."""
    if all(character in _BYTES for character in token):
        return bytes(_BYTES[character] for character in token)
    return token.encode()


def split_words(text: tf.Tensor) -> tf.RaggedTensor:
    r"""The words `[B, (W)]` of strings `[B]`; joined, they give the string again.

    GPT-2's regular expression has a lookahead (`\s+(?!\S)`), which RE2 does not support. Instead,
    the last white space character of each run is first moved to the text after it.
    """
    parts = tf_text.regex_split(text, SPACES, SPACES)  # [B, (runs)]
    flat, rows = parts.flat_values, parts.value_rowids()
    followed = tf.concat([rows[1:] == rows[:-1], tf.zeros_like(rows[:1], tf.bool)], 0)
    cut = followed & tf.strings.regex_full_match(flat, SPACES)
    last = tf.where(
        cut, tf.strings.substr(flat, -tf.ones_like(rows), tf.ones_like(rows), "UTF8_CHAR"), ""
    )
    flat = tf.where(cut, tf.strings.regex_replace(flat, f"[{SPACE}]$", ""), flat)
    chunks = tf.strings.join([tf.concat([[""], last[:-1]], 0)[: tf.size(last)], flat])
    words = tf_text.regex_split(parts.with_flat_values(chunks), _WORD, _WORD)
    return words.merge_dims(1, 2)


class Merges:
    """The merge rules of a vocabulary, applied in their order.

    Args:
        vocabulary: token to id, V tokens.
        pairs: the rules, M pairs of tokens that become one token.
        unknown: the id for a byte that has no token; None leaves such bytes out.
    """

    def __init__(
        self, vocabulary: dict[str, int], pairs: Sequence[tuple[str, str]], unknown: int | None
    ):
        self._size = len(vocabulary) + 1  # one more for bytes without a token
        missing = len(vocabulary) if unknown is None else unknown
        self._byte_ids = np.array([vocabulary.get(c, missing) for c in CHARACTERS], np.int64)
        left, right, whole = (
            np.array([vocabulary[token] for token in tokens], np.int64)
            for tokens in (
                [first for first, _ in pairs],
                [second for _, second in pairs],
                ["".join(pair) for pair in pairs],
            )
        )
        self._products = np.append(whole, 0)
        # If only later rules use the product of a rule, which is so after training, all occurrences
        # of the pair in a word can be merged in one step.
        first_use: dict[int, int] = collections.defaultdict(lambda: len(pairs))
        for rank in reversed(range(len(pairs))):
            first_use[left[rank]] = first_use[right[rank]] = rank
        later = [first_use[token] > rank for rank, token in enumerate(whole)]
        self._at_once = np.array([*later, False])
        self._none = len(pairs)
        # A table must not be empty: -1 is a key that no pair has.
        keys = np.append(left * self._size + right, -1)
        initializer = tf.lookup.KeyValueTensorInitializer(keys, np.arange(len(keys)))
        self.table = tf.lookup.StaticHashTable(initializer, default_value=self._none)

    def __call__(self, words: tf.Tensor) -> tf.RaggedTensor:
        """The ids `[W, (T)]` of words `[W]`. No word may be empty."""
        words = show_zeros(words)
        byte = tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8)
        ids = tf.gather(self._byte_ids, tf.cast(byte, tf.int32))
        rows = tf.repeat(tf.range(tf.size(words, tf.int64)), tf.strings.length(words))
        known = ids < self._size - 1  # then a rule may join the tokens before and after a lost byte
        ids, rows = tf.boolean_mask(ids, known), tf.boolean_mask(rows, known)
        ids, rows, _ = tf.while_loop(
            lambda ids, rows, ranks: tf.reduce_any(ranks < self._none),
            self._step,
            (ids, rows, self._ranks(ids, rows)),
            shape_invariants=(tf.TensorShape([None]),) * 3,
        )
        count = tf.size(words, tf.int64)
        return tf.RaggedTensor.from_value_rowids(
            tf.cast(ids, tf.int32), rows, nrows=count, validate=False
        )

    def _ranks(self, ids: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """The number of the rule for each token and the next one in its word."""
        found = self.table.lookup(ids[:-1] * self._size + ids[1:])
        found = tf.where(rows[1:] == rows[:-1], found, self._none)
        return tf.pad(found, [[0, tf.minimum(tf.size(ids), 1)]], constant_values=self._none)

    def _step(self, ids: tf.Tensor, rows: tf.Tensor, ranks: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Apply, in each word, the first rule that matches."""
        best = tf.gather(tf.math.segment_min(ranks, rows), rows)
        chosen = (ranks == best) & (ranks < self._none)
        # If matches overlap, as in "aaa", only the first, the third and so on are merged.
        place = tf.range(tf.size(ids))
        begins = chosen & ~_shifted(chosen)
        run = tf.cumsum(tf.cast(begins, tf.int32))
        begin = tf.gather(tf.concat([[0], tf.boolean_mask(place, begins)], 0), run)
        chosen &= (place - begin) % 2 == 0
        count = tf.cumsum(tf.cast(chosen, tf.int32))
        before = tf.gather(tf.math.segment_min(count - tf.cast(chosen, tf.int32), rows), rows)
        chosen &= tf.gather(self._at_once, ranks) | (count - before == 1)
        ids = tf.where(chosen, tf.gather(self._products, ranks), ids)
        kept = ~_shifted(chosen)
        ids, rows = tf.boolean_mask(ids, kept), tf.boolean_mask(rows, kept)
        return ids, rows, self._ranks(ids, rows)


def _shifted(flags: tf.Tensor) -> tf.Tensor:
    """The flags, each moved one place to the right."""
    return tf.concat([tf.zeros_like(flags[:1]), flags[:-1]], 0)
