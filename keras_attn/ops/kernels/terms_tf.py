"""What a tile of TensorFlow's kernel adds to its logits: the mask's band, and a bias.

Letters: B batch, T query length, S key length, N query heads, G heads in a group; in a tile: k
key/value heads, r rows, s keys.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_attn._typing import Size, Tensor
from keras_attn.backend.tensorflow import size
from keras_attn.ops.biases import Bias, PositionBias
from keras_attn.ops.masks import AttentionMask

# Far below any product of a query and a key.
MASKED = -1e30

# If a mask has only these parts, positions of queries and keys need not be compared.
_BAND_PARTS = {"causal", "window", "key_padding", "query_padding"}


class Place(NamedTuple):
    """The place of a tile in the matrix of logits: `(start, size)` along each axis."""

    batch: tuple
    heads: tuple
    rows: tuple
    keys: tuple

    def row_positions(self, mask: AttentionMask) -> Tensor:
        """The positions of the rows among the keys, `[r]`."""
        row, rows = self.rows
        return tf.range(rows) + (row + mask.query_offset)

    def key_positions(self) -> Tensor:
        """The positions of the keys, `[s]`."""
        key, keys = self.keys
        return tf.range(keys) + key


class Band(NamedTuple):
    """The causal and window part of a mask: one table for all tiles of a call.

    Whether it allows a pair depends only on key minus query, so that a tile takes its part from one
    table; comparing the positions again in each tile would cost more than its softmax.
    """

    visible: Tensor  # bool [r, before + after]
    added: Tensor  # 0 where visible, else MASKED
    before: Size  # how far the first key of a tile may be before its first row, and yet matter

    def part(self, table: Tensor, place: Place, mask: AttentionMask) -> Tensor:
        """The part `[1, 1, r, s]` of `visible` or `added` in a tile."""
        before = place.rows[0] + mask.query_offset - place.keys[0]
        begin = tf.maximum(self.before - before, 0)
        return tf.slice(table, (0, begin), (place.rows[1], place.keys[1]))[None, None]


def band_of(mask: AttentionMask, rows: Size, most: Size, keys: Size, dtype: str) -> Band | None:
    """The band of tiles that are `most` keys wide at most; None where the mask has none."""
    if not (mask.causal or mask.window is not None) or not mask.structure <= _BAND_PARTS:
        return None
    before, after = (keys, rows) if mask.reach is None else (mask.reach[0] + most, most)
    distance = tf.range(before + after) - before - tf.range(rows)[:, None]
    low, high = _first_and_last_key(mask, 0)
    allowed = distance <= high
    if mask.reach is not None:
        allowed &= distance >= low
    return Band(allowed, tf.cast(tf.where(allowed, 0.0, MASKED), dtype), before)


def rows_with_a_key(
    mask: AttentionMask, place: Place, keys: Size, real: Tensor | None
) -> Tensor | None:
    """Which rows of the tile have a key in the band, bool `[1, 1, r, 1]`; None if all have one.

    `real[j]` is how many of the first j keys are no padding; None if all are.
    """
    if real is None and mask.window is None:
        return None
    ends = _first_and_last_key(mask, place.row_positions(mask))
    low, high = (tf.clip_by_value(end, 0, keys) for end in ends)
    high = tf.minimum(high + 1, keys)
    found = high - low if real is None else tf.gather(real, high) - tf.gather(real, low)
    return (found > 0)[None, None, :, None]


def _first_and_last_key(mask: AttentionMask, row: Size) -> tuple:
    if mask.reach is None:
        return tf.zeros_like(row), row
    before, after = mask.reach
    return row - before, row + after


# A bias is None, a tensor `[B, N, T, S]` or a `PositionBias`. Its tensors with a gradient travel
# apart from it.


def split_bias(bias: Bias | None) -> tuple:
    """What is the same for equal functions of the bias's tensors, and these tensors."""
    if bias is None:
        return None, ()
    if not isinstance(bias, PositionBias):
        return "dense", (tf.convert_to_tensor(bias),)
    constants = (p.tobytes() if isinstance(p, np.ndarray) else None for p in bias.parameters)
    tensors = (p for p in bias.parameters if not isinstance(p, np.ndarray))
    return (bias.function, *constants), tuple(map(tf.convert_to_tensor, tensors))


def with_tensors(bias: Bias | None, tensors: Sequence[Tensor]) -> Bias | None:
    """The bias with these tensors in the place of its own."""
    if not isinstance(bias, PositionBias):
        return tensors[0] if tensors else None
    learned = iter(tensors)
    every = (p if isinstance(p, np.ndarray) else next(learned) for p in bias.parameters)
    return PositionBias(bias.function, tuple(every))


def bias_in(bias: Bias | None, place: Place, mask: AttentionMask, dtype: str) -> Tensor:
    """What a bias adds to the tile's logits, `[1, k G or 1, r or 1, s or 1]`."""
    if not isinstance(bias, PositionBias):
        starts, counts = zip(*_ranges(bias, place), strict=True)
        return tf.cast(tf.slice(bias, starts, counts), dtype)
    heads = tf.range(place.heads[1]) + place.heads[0]
    parts = tuple(tf.gather(p, heads) for p in bias.parameters)
    positions = place.row_positions(mask), place.key_positions()
    return PositionBias(bias.function, parts).materialize(*positions, dtype)[None]


def no_bias_gradients(bias: Bias | None, tensors: Sequence[Tensor], dtype: str) -> tuple:
    """Sums of zero for the gradients of the bias's tensors."""
    if isinstance(bias, PositionBias):
        return tuple(tf.zeros(tf.shape(tensor), dtype) for tensor in tensors)
    return tuple(  # rows of a tensor, [B N T, S]
        tf.zeros((tf.size(tensor) // size(tensor, 3), size(tensor, 3)), dtype) for tensor in tensors
    )


def add_bias_gradients(
    sums: tuple,
    bias: Bias | None,
    tensors: Sequence[Tensor],
    place: Place,
    mask: AttentionMask,
    d_logits: Tensor,
) -> tuple:
    """The sums with what a tile adds, from the gradient of its logits `[k, G, r, s]`."""
    if not tensors:
        return sums
    if not isinstance(bias, PositionBias):
        return (_add_rows(sums[0], tensors[0], place, d_logits),)
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        added = bias_in(with_tensors(bias, tensors), place, mask, d_logits.dtype.name)
    d_added = tf.reshape(d_logits, tf.shape(added))
    parts = tape.gradient(
        added, tensors, d_added, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return tuple(
        total + tf.cast(tf.convert_to_tensor(part), total.dtype)
        for total, part in zip(sums, parts, strict=True)
    )


def _add_rows(total: Tensor, bias: Tensor, place: Place, d_logits: Tensor) -> Tensor:
    """Sum over the broadcast axes and add to the tile's rows."""
    d_bias = tf.reshape(d_logits, (1, place.heads[1], place.rows[1], place.keys[1]))
    for axis in (1, 2, 3):
        if bias.shape[axis] == 1:
            d_bias = tf.reduce_sum(d_bias, axis, keepdims=True)
    batch, heads, rows, (key, keys) = _ranges(bias, place)
    places = tf.range(batch[1]) + batch[0]
    for axis, (start, count) in ((1, heads), (2, rows)):
        places = places[..., None] * size(bias, axis) + tf.range(count) + start
    d_bias = tf.reshape(d_bias, (-1, keys))
    d_bias = tf.pad(d_bias, ((0, 0), (0, size(bias, 3) - keys)))
    d_bias = tf.roll(d_bias, key, 1)  # the keys before the tile's
    return tf.tensor_scatter_nd_add(total, tf.reshape(places, (-1, 1)), d_bias)


def _ranges(bias: Tensor, place: Place) -> list[tuple]:
    return [(0, 1) if one == 1 else part for one, part in zip(bias.shape, place, strict=True)]
