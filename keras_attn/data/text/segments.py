"""Packs ragged segments into rows of a fixed width, with operations that older servers have.

Letters: B batch, T tokens of a segment (ragged), L row length.
"""

from __future__ import annotations

from collections.abc import Sequence

from keras_attn._typing import Tensor
from keras_attn.data._tensorflow import integers, tf


def pack(
    segments: Sequence[tf.RaggedTensor],
    *,
    length: int,
    cls_id: int,
    sep_id: int,
    pad_id: int,
    separators: int = 1,
    pad_to_length: bool = True,
) -> dict[str, tf.Tensor]:
    """Make BERT's rows: [CLS] A [SEP], or [CLS] A [SEP] B [SEP], and so on.

    If the segments are too long together, the longest one loses its last token until they fit; of
    equally long segments the last one.

    Args:
        segments: one or more ragged `[B, (T)]` of integer ids.
        length: the maximum number of tokens in a row, L.
        cls_id, sep_id, pad_id: the ids of [CLS], [SEP] and [PAD].
        separators: the number of [SEP] between two segments; 2 for RoBERTa.
        pad_to_length: False makes the rows only as wide as the longest of the batch, which
            saves a server work on short requests.

    Returns:
        A dict of `[B, L]` tensors: `token_ids` int32; `segment_ids` int32, the number of the
        segment with its [SEP] ([CLS] and padding: 0); `padding_mask` bool, True at tokens.

    Raises:
        ValueError: there is no segment, or `length` is too small for one token of each.

    Example:
    >>> a = tf.ragged.constant([[5, 6, 7, 8], [5]], dtype=tf.int32)
    >>> b = tf.ragged.constant([[9, 10], [11]], dtype=tf.int32)
    >>> row = pack([a, b], length=7, cls_id=2, sep_id=3, pad_id=0)
    >>> row["token_ids"].numpy().tolist()
    [[2, 5, 6, 3, 9, 10, 3], [2, 5, 3, 11, 3, 0, 0]]

    Source: Devlin et al. 2019, section 3 and figure 2.
    """
    if not segments:
        raise ValueError("`segments` must hold one segment or more, got none")
    special = 2 + separators * (len(segments) - 1)
    least = special + len(segments)
    if length < least:
        raise ValueError(
            f"`length` must be at least {least} for {len(segments)} segments, got {length}"
        )
    lengths = tf.stack([segment.row_lengths() for segment in segments], axis=1)  # [B, segments]
    shares = tf.cast(_fair_shares(lengths, length - special), tf.int64)
    totals = tf.reduce_sum(shares, axis=1, keepdims=True) + special
    # A batch of no rows is as wide as one empty text: a model may read the first token.
    width = length if pad_to_length else tf.maximum(tf.reduce_max(totals), special)
    column = tf.range(width, dtype=tf.int64)  # [L]

    token_ids, segment_ids = tf.where(column == 0, cls_id, sep_id), 0
    start = tf.ones_like(totals)
    for number, segment in enumerate(segments):
        share = shares[:, number, None]
        place = column - start  # [B, L], in the segment
        inside = (place >= 0) & (place < share)
        row = tf.cast(segment.row_starts()[:, None], tf.int64)
        ids = look_up(tf.cast(segment.values, tf.int32), row + place, inside, pad_id)
        token_ids = tf.where(inside, ids, token_ids)
        segment_ids = tf.where(place >= 0, number, segment_ids)
        start += share + separators
    mask = column < totals
    return {
        "token_ids": tf.where(mask, token_ids, pad_id),
        "segment_ids": tf.where(mask, segment_ids, 0),
        "padding_mask": mask,
    }


def look_up(values: tf.Tensor, index: tf.Tensor, inside: tf.Tensor, filling: int) -> tf.Tensor:
    """`values[index]` where `inside` is True, and `filling` elsewhere, for any index there."""
    values = tf.concat([values, [filling]], axis=0)
    return tf.gather(values, tf.where(inside, index, tf.size(values, index.dtype) - 1))


def check_ids(name: str, ids: tf.Tensor | tf.RaggedTensor, count: int) -> None:
    """Raise a ValueError for eager `ids` outside the vocabulary; in a graph nothing is checked."""
    flat = ids.flat_values if isinstance(ids, tf.RaggedTensor) else tf.reshape(ids, [-1])
    if not hasattr(flat, "numpy") or not len(flat):
        return
    for extreme in (int(tf.reduce_min(flat)), int(tf.reduce_max(flat))):
        if not 0 <= extreme < count:
            raise ValueError(
                f"`{name}` must be ids below the vocabulary's size {count}, got {extreme}"
            )


def token_ids(ids: Tensor, count: int) -> tf.Tensor | tf.RaggedTensor:
    """The ids as an integer tensor; raises unless all are in a vocabulary of `count` tokens."""
    if isinstance(ids, tf.RaggedTensor):
        ids = ids.with_flat_values(integers("ids", ids.flat_values))
    else:
        ids = integers("ids", ids)
    check_ids("ids", ids, count)
    return ids


def _fair_shares(lengths: tf.Tensor, space: int) -> tf.Tensor:
    """How many tokens each segment keeps: min(length, level) with the highest level that fits.

    sum(min(length, level)) is the minimum over k of (sum of the k shortest) + (S - k) * level.
    It fits if one of these terms does, so the level is the maximum over k of the level at which
    the term equals the space.
    """
    count = lengths.shape[1]
    shortest = tf.cumsum(tf.sort(lengths, axis=1), axis=1, exclusive=True)  # [B, segments]
    sharers = tf.range(count, 0, -1, dtype=lengths.dtype)
    level = tf.reduce_max((space - shortest) // sharers, axis=1, keepdims=True)
    longer = lengths > level
    left = space - tf.reduce_sum(tf.minimum(lengths, level), axis=1, keepdims=True)
    # The remainder of the division: one token each for the first segments that were cut.
    extra = longer & (tf.cumsum(tf.cast(longer, lengths.dtype), axis=1) <= left)
    return tf.minimum(lengths, level) + tf.cast(extra, lengths.dtype)
