"""An additive bias on TensorFlow: the part of it in one tile, and the gradient collected from all.

Letters: B batch, T query length, S key length, N query heads, G heads in a group; in a tile: k
key/value heads, r rows, s keys.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_attn.ops.biases import PositionBias
from keras_attn.ops.kernels.plan_tf import size


def bias_of(bias: Any) -> Any:
    """The object that cuts tiles from this bias."""
    if bias is None:
        return NoBias()
    return PositionTiles(bias) if isinstance(bias, PositionBias) else DenseTiles(bias)


class NoBias:
    """No bias: nothing to add and no gradient."""

    parameters: tuple = ()
    identity: Any = None  # equal for biases that are the same function of their parameters

    def whole(self, parameters: tuple) -> Any:
        """The bias as `keras_attn.ops.attention` takes it."""

    def tile(self, tile: Any, parameters: tuple) -> Any:
        """What is added to the tile's logits, of rank 4, or None."""

    def zeros(self, parameters: tuple, precision: str) -> tuple:
        """Accumulators for the gradients of the parameters."""
        return ()

    def accumulate(self, gradients: tuple, tile: Any, parameters: tuple, d_bias: Any) -> tuple:
        """The accumulators with the tile's share, from the gradient of its logits."""
        return gradients


class DenseTiles(NoBias):
    """A tensor `[B, N, T, S]`; axes of length 1 are broadcast."""

    identity = "dense"

    def __init__(self, bias: Any) -> None:
        self.parameters = (tf.convert_to_tensor(bias),)

    def whole(self, parameters: tuple) -> Any:
        """The tensor."""
        return parameters[0]

    def tile(self, tile: Any, parameters: tuple) -> Any:
        """The tensor's part, float32 `[1, k G or 1, r or 1, s or 1]`."""
        starts, counts = zip(*_ranges(tile, parameters[0]), strict=True)
        return tf.cast(tf.slice(parameters[0], starts, counts), tile.plan.precision)

    def zeros(self, parameters: tuple, precision: str) -> tuple:
        """One accumulator whose rows are those of the tensor, `[B N T, S]`."""
        keys = size(parameters[0], 3)
        return (tf.zeros((tf.size(parameters[0]) // keys, keys), precision),)

    def accumulate(self, gradients: tuple, tile: Any, parameters: tuple, d_bias: Any) -> tuple:
        """Sum over the broadcast axes and add to the tile's rows."""
        (total,), (bias,) = gradients, parameters
        d_bias = tf.reshape(d_bias, (1, tile.heads[1], tile.plan.rows, tile.keys))
        for axis in (1, 2, 3):
            if bias.shape[axis] == 1:
                d_bias = tf.reduce_sum(d_bias, axis, keepdims=True)
        batch, heads, rows, (key, keys) = _ranges(tile, bias)
        places = tf.range(batch[1]) + batch[0]
        for axis, (start, count) in ((1, heads), (2, rows)):
            places = places[..., None] * size(bias, axis) + tf.range(count) + start
        d_bias = tf.reshape(d_bias, (-1, keys))
        d_bias = tf.pad(d_bias, ((0, 0), (0, size(bias, 3) - keys)))
        d_bias = tf.roll(d_bias, key, 1)  # the keys before the tile's
        return (tf.tensor_scatter_nd_add(total, tf.reshape(places, (-1, 1)), d_bias),)


class PositionTiles(NoBias):
    """A `PositionBias`, computed for each tile; parameters in numpy are constants."""

    def __init__(self, bias: PositionBias) -> None:
        self._function = bias.function
        self._given = [
            p if isinstance(p, np.ndarray) else tf.convert_to_tensor(p) for p in bias.parameters
        ]
        self.parameters = tuple(p for p in self._given if not isinstance(p, np.ndarray))
        constants = (p.tobytes() if isinstance(p, np.ndarray) else None for p in self._given)
        self.identity = (bias.function, *constants)

    def whole(self, parameters: tuple) -> PositionBias:
        """The bias with these learned parameters."""
        learned = iter(parameters)
        every = (p if isinstance(p, np.ndarray) else next(learned) for p in self._given)
        return PositionBias(self._function, tuple(every))

    def tile(self, tile: Any, parameters: tuple) -> Any:
        """The bias of these positions, float32 `[1, k G, r, s]`."""
        heads = tf.range(tile.heads[1]) + tile.heads[0]
        parts = tuple(tf.gather(p, heads) for p in self.whole(parameters).parameters)
        bias = PositionBias(self._function, parts)
        return bias.materialize(*tile.positions, tile.plan.precision)[None]

    def zeros(self, parameters: tuple, precision: str) -> tuple:
        """One accumulator for each parameter."""
        return tuple(tf.zeros(tf.shape(parameter), precision) for parameter in parameters)

    def accumulate(self, gradients: tuple, tile: Any, parameters: tuple, d_bias: Any) -> tuple:
        """Differentiate the function at these positions."""
        if not parameters:
            return gradients
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            bias = self.tile(tile, parameters)
        d_bias = tf.reshape(d_bias, tf.shape(bias))
        parts = tape.gradient(
            bias, parameters, d_bias, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return tuple(
            total + tf.cast(tf.convert_to_tensor(part), total.dtype)
            for total, part in zip(gradients, parts, strict=True)
        )


def _ranges(tile: Any, bias: Any) -> list[tuple]:
    whole = ((tile.span.batch, 1), tile.heads, (tile.row, tile.plan.rows))
    ranges = (*whole, (tile.first_key, tile.keys))
    return [(0, 1) if one == 1 else part for one, part in zip(bias.shape, ranges, strict=True)]
