"""The causal and window part of a mask on TensorFlow: one table for all tiles of a call.

Whether it allows a pair depends on key minus query alone, so that the part in a tile is a part of
one table; to compare the positions in each tile anew costs more than its softmax.

Letters: S key length, G heads in a group; in a tile: k key/value heads, r rows, s keys.
"""

from typing import Any

import tensorflow as tf

from keras_attn.ops.kernels.reference import MASKED
from keras_attn.ops.masks import AttentionMask

# The parts of a mask beside which no query needs to be compared with each key.
PARTS = {"causal", "window", "key_padding", "query_padding"}


def band_mask(mask: AttentionMask, rows: Any, most: Any, keys: Any) -> Any:
    """What masks the tiles of a call, `most` keys wide at most; None where it does not fit."""
    if not mask.structure <= PARTS:
        return None
    if mask.window is not None:
        return WindowMask(mask, rows, most, keys)
    return CausalMask(mask, rows, most, keys) if mask.causal else None


class CausalMask:
    """No row sees the keys after it: those from the first row on are in question.

    `table[t, j]` is what the mask adds to row t for the key j after that of the first row.
    """

    def __init__(self, mask: AttentionMask, rows: Any, most: Any, keys: Any) -> None:
        self.mask, self.keys, self.most = mask, keys, most
        distance = self._columns(rows) - tf.range(rows)[:, None]
        low, high = self._reach(0)
        allowed = (distance >= low) & (distance <= high)
        self.table = tf.where(allowed, 0.0, MASKED)

    def add(self, logits: Any, rows: Any, keys: Any) -> Any:
        """The logits `[k, G, r, s]` of these positions, masked."""
        count = tf.size(keys)
        free = tf.minimum(rows[0] - keys[0], count)
        edge = logits[..., free:] + self.table[:, : count - free]
        # In place, in a graph: one more pass over the tile would cost as much as its softmax.
        return tf.raw_ops.TensorStridedSliceUpdate(
            input=logits,
            begin=[0, 0, 0, free],
            end=tf.shape(logits),
            strides=[1, 1, 1, 1],
            value=edge,
        )

    def alive(self, rows: Any, real: Any) -> Any:
        """1.0 for each of these rows that has a key, `[1, 1, r, 1]`, or None if all have one.

        `real[j]` is how many of the first j keys are no padding; None if all are.
        """
        if real is None and self.mask.window is None:
            return None
        low, high = (tf.clip_by_value(end, 0, self.keys) for end in self._reach(rows))
        high = tf.minimum(high + 1, self.keys)
        found = high - low if real is None else tf.gather(real, high) - tf.gather(real, low)
        return tf.cast(found > 0, "float32")[None, None, :, None]

    def _columns(self, rows: Any) -> Any:
        return tf.range(rows)

    def _reach(self, row: Any) -> tuple:
        """The first and the last key that a row may see."""
        return row - self.keys, row


class WindowMask(CausalMask):
    """A row sees the keys near it; a tile has all of its keys in question, but they are few."""

    def add(self, logits: Any, rows: Any, keys: Any) -> Any:
        """The logits `[k, G, r, s]` of these positions, masked."""
        begin = tf.maximum(keys[0] - rows[0] + self._behind, 0)
        return logits + tf.slice(self.table, (0, begin), (tf.size(rows), tf.size(keys)))

    @property
    def _behind(self) -> Any:
        """How far the first key of a tile may be behind its first row and yet matter."""
        return self.mask.window + self.most

    def _columns(self, rows: Any) -> Any:
        return tf.range(self._behind + self.most) - self._behind

    def _reach(self, row: Any) -> tuple:
        window = self.mask.window
        return row - window, row if self.mask.causal else row + window
