"""The positions of byte-pair tokens in the original string, before normalization.

Letters: B batch, T tokens (ragged), G groups of characters that are normalized together (flat).
"""

from __future__ import annotations

from collections.abc import Callable

from keras_attn.data._tensorflow import tf
from keras_attn.data.text.spans import SPACE

# A character that belongs to the one before it: an accent, or a later part of a Korean syllable.
_FOLLOWING = r"[\p{M}\x{1160}-\x{11FF}]"
_SPELLED = "the tokens must spell `text`: the vocabulary must have a token for each byte"


def token_offsets(
    text: tf.Tensor, tokens: tf.RaggedTensor, normalize: Callable[[tf.Tensor], tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """For each token, flat, its first byte in its string and the byte after its last.

    The tokens together spell the normalized text, except for white space: a space may be added
    before the text, and some added tokens remove white space. Therefore only the other bytes are
    counted. White space at the ends of a token does not belong to it. A token of white space alone
    is empty, and its position is the end of the token before it.

    Args:
        text: strings `[B]`.
        tokens: their tokens as text, `[B, (T)]`.
        normalize: a function from strings to normalized strings.
    """
    groups, begins, ends = _groups(text, normalize)
    group, seen = _bytes(groups)
    group = tf.boolean_mask(group, seen)  # of each byte that counts
    size = tf.size(tokens.flat_values, tf.int64)
    token = tf.repeat(tf.range(size), tf.strings.length(tokens.flat_values))
    _, seen = _bytes(tf.strings.reduce_join(tokens, axis=-1))
    token = tf.boolean_mask(token, seen)
    with tf.control_dependencies(
        [tf.debugging.assert_equal(tf.size(token), tf.size(group), _SPELLED)]
    ):
        first = tf.math.unsorted_segment_min(tf.gather(begins, group), token, size)
    last = tf.math.unsorted_segment_max(tf.gather(ends, group), token, size)
    real = last >= 0  # the greatest of no numbers is negative
    before = tf.cumsum(tf.cast(real, tf.int64))
    found = tf.concat([[-1], tf.where(real)[:, 0]], 0)
    found = tf.gather(found, before)  # the last real token up to each
    row = tokens.value_rowids()
    same = tf.gather(row, tf.maximum(found, 0)) == row
    end = tf.where(same & (found >= 0), tf.gather(last, tf.maximum(found, 0)), 0)
    return tf.where(real, first, end), end


def word_offsets(
    begins: tf.RaggedTensor, ends: tf.RaggedTensor
) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """For each token the begin and the end of its word; white space separates words."""
    begin, end, row = begins.flat_values, ends.flat_values, begins.value_rowids()
    new = (begin[1:] > end[:-1]) | (row[1:] != row[:-1])
    word = tf.cumsum(tf.cast(tf.concat([[False], new], 0)[: tf.size(begin)], tf.int32))
    return (
        begins.with_values(tf.gather(tf.math.segment_min(begin, word), word)),
        ends.with_values(tf.gather(tf.math.segment_max(end, word), word)),
    )


def _groups(
    text: tf.Tensor, normalize: Callable[[tf.Tensor], tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The normalized groups `[G]`, and for each its first byte in its string and the one after."""
    chars, begins = tf.strings.unicode_split_with_offsets(text, "UTF-8")  # [B, (characters)]
    row, begin = chars.value_rowids(), begins.flat_values
    same = row[1:] == row[:-1]
    follows = tf.strings.regex_full_match(chars.flat_values[1:], _FOLLOWING) & same
    size = tf.cast(tf.strings.length(text), tf.int64)
    end = tf.where(same, begin[1:], tf.gather(size, row[:-1]))
    end = tf.concat([end, tf.gather(size, row[-1:])], 0)
    together = _numbered(~follows, row)
    joined = tf.strings.reduce_join(
        tf.RaggedTensor.from_value_rowids(chars.flat_values, together, validate=False), axis=-1
    )
    # Characters that normalization does not change need no group.
    changed = tf.gather(normalize(joined) != joined, together)
    group = _numbered(~(follows & changed[1:]), row)
    groups = tf.RaggedTensor.from_value_rowids(chars.flat_values, group, validate=False)
    return (
        normalize(tf.strings.reduce_join(groups, axis=-1)),
        tf.math.segment_min(begin, group),
        tf.math.segment_max(end, group),
    )


def _numbered(new: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
    """The number of each character's group; `new` is True where one begins."""
    return tf.cumsum(tf.cast(tf.concat([[False], new], 0)[: tf.size(row)], tf.int64))


def _bytes(text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """For each byte of strings the number of its string, and whether it is not white space."""
    chars = tf.strings.unicode_split(text, "UTF-8")
    widths = tf.strings.length(chars.flat_values)
    seen = ~tf.strings.regex_full_match(chars.flat_values, f"[{SPACE}]")
    return tf.repeat(chars.value_rowids(), widths), tf.repeat(seen, widths)
