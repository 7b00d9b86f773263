"""The gradients of keys and values on TensorFlow, summed over the tiles that saw them.

Letters: S key length, H width of a head; in a tile: k key/value heads, r rows, s keys.
"""

from typing import Any

import tensorflow as tf

from keras_attn.ops.kernels.plan_tf import Plan, band, size


def key_sums(plan: Plan) -> Any:
    """What collects the tiles of this plan."""
    return WholeSums(plan) if plan.mask.window is None else BandSums(plan)


class WholeSums:
    """Sums of all keys, `[k, S, H]`, to which each tile adds."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.outputs: tuple = ()

    def start(self, *widths: int) -> tuple:
        """The sums before the first tile, one for each width."""
        return tuple(self._zeros(self.plan.keys, width) for width in widths)

    def add(self, sums: tuple, tile: Any, parts: tuple) -> tuple:
        """The sums with a tile's parts `[k, s, H]`, and what `whole` needs of this tile."""
        if tile.keys is not self.plan.keys:
            rest = self.plan.keys - tile.first_key - tile.keys
            parts = tuple(tf.pad(part, ((0, 0), (tile.first_key, rest), (0, 0))) for part in parts)
        return tuple(total + part for total, part in zip(sums, parts, strict=True)), ()

    def whole(self, sums: tuple, outputs: tuple) -> list:
        """The sums, keys first, `[S, k, H]`."""
        return [tf.transpose(total, (1, 0, 2)) for total in sums]

    def _zeros(self, keys: Any, width: int) -> Any:
        return tf.zeros((self.plan.heads, keys, width), self.plan.precision)


class BandSums(WholeSums):
    """Sums of the keys in the band of the last tile alone, so that a tile never costs O(S).

    The bands of a window move towards the end; a key that the next band has left is done.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.outputs = ("int32", plan.precision, plan.precision)

    def start(self, *widths: int) -> tuple:
        """The first key of the band, and its sums."""
        plan = self.plan
        keys = band(plan.mask, plan.rows, plan.keys)
        return tf.constant(0), *(self._zeros(keys, width) for width in widths)

    def add(self, sums: tuple, tile: Any, parts: tuple) -> tuple:
        """The sums of the tile's band; the places and sums of r keys, those not done nowhere."""
        first, *sums = sums
        rows = tf.range(self.plan.rows)
        moved = tf.minimum(tile.first_key - first, self.plan.rows)  # more only in the first tile
        places = tf.where(rows < moved, first + rows, self.plan.keys)
        longer = [tf.pad(total, ((0, 0), (0, self.plan.rows), (0, 0))) for total in sums]
        finished = [tf.transpose(total[:, : self.plan.rows], (1, 0, 2)) for total in longer]
        sums = (
            tf.slice(total, (0, moved, 0), tf.shape(part)) + part
            for total, part in zip(longer, parts, strict=True)
        )
        return (tile.first_key, *sums), (places, *finished)

    def whole(self, sums: tuple, outputs: tuple) -> list:
        """The sums of all keys, first, `[S, k, H]`."""
        first, *sums = sums
        places, *finished = outputs
        last = first + tf.range(size(sums[0], 1))
        places = tf.concat([tf.reshape(places, (-1,)), last], 0)
        rows, keys = tf.size(places), self.plan.keys
        # From where each key comes; a key of no tile comes from the zeros behind all rows.
        source = tf.fill((keys + 1,), rows)
        source = tf.tensor_scatter_nd_update(source, places[:, None], tf.range(rows))[:keys]
        found = []
        for total, done in zip(super().whole(sums, ()), finished, strict=True):
            done = tf.reshape(done, (-1, *total.shape[1:]))
            found.append(tf.gather(tf.concat([done, total, tf.zeros_like(total[:1])], 0), source))
        return found
