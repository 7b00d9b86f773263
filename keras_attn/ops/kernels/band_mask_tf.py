"""The causal and window part of a mask on TensorFlow: one table for all tiles of a call.

Whether it allows a pair depends on key minus query alone, so that the part in a tile is a part of
one table; to compare the positions in each tile anew costs more than its softmax.

Letters: S key length, G heads in a group; in a tile: k key/value heads, r rows, s keys.
"""

from typing import Any

import tensorflow as tf

from keras_attn.ops.masks import AttentionMask

# Far below any product of a query and a key.
MASKED = -1e30

# The parts of a mask beside which no query needs to be compared with each key.
PARTS = {"causal", "window", "key_padding", "query_padding"}


def band_mask(mask: AttentionMask, rows: Any, most: Any, keys: Any, dtype: str) -> Any:
    """What masks the tiles of a call, `most` keys wide at most; None where it does not fit."""
    if not mask.structure <= PARTS:
        return None
    if mask.window is not None:
        return BandMask(mask, rows, keys, behind=mask.reach + most, beyond=most, dtype=dtype)
    return (
        BandMask(mask, rows, keys, behind=keys, beyond=rows, dtype=dtype) if mask.causal else None
    )


class BandMask:
    """What is added to the logits of any tile, and which of its rows have a key.

    `behind` is how far the first key of a tile may be behind its first row and yet matter,
    `beyond` how far the last may be from there.
    """

    def __init__(
        self, mask: AttentionMask, rows: Any, keys: Any, behind: Any, beyond: Any, dtype: str
    ) -> None:
        self.mask, self.keys, self.behind = mask, keys, behind
        distance = tf.range(behind + beyond) - behind - tf.range(rows)[:, None]
        low, high = self._reach(0)
        allowed = distance <= high
        if mask.window is not None:
            allowed &= distance >= low
        self.visible = allowed  # [r, behind + beyond]
        self.added = tf.cast(tf.where(allowed, 0.0, MASKED), dtype)

    def tile(self, table: Any, rows: Any, keys: Any) -> Any:
        """The part `[r, s]` of `visible` or `added` at these positions."""
        begin = tf.maximum(keys[0] - rows[0] + self.behind, 0)
        return tf.slice(table, (0, begin), (tf.size(rows), tf.size(keys)))

    def some(self, rows: Any, real: Any) -> Any:
        """Which of these rows have a key, bool `[1, 1, r, 1]`, or None if all have one.

        `real[j]` is how many of the first j keys are no padding; None if all are.
        """
        if real is None and self.mask.window is None:
            return None
        low, high = (tf.clip_by_value(end, 0, self.keys) for end in self._reach(rows))
        high = tf.minimum(high + 1, self.keys)
        found = high - low if real is None else tf.gather(real, high) - tf.gather(real, low)
        return (found > 0)[None, None, :, None]

    def _reach(self, row: Any) -> tuple:
        """The first and the last key that a row may see."""
        reach = self.mask.reach
        if reach is None:
            return tf.zeros_like(row), row
        return row - reach, row if self.mask.causal else row + reach
