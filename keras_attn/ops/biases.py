"""Additive position biases as functions of positions: a kernel evaluates the block it needs.

Letters: N heads, t and s the query and key positions of one block.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from keras import ops

from keras_attn._typing import Size, Tensor
from keras_attn.ops.numerics import is_float


class PositionBias(NamedTuple):
    """A bias that depends on positions alone.

    `function(query_positions [t], key_positions [s], *parameters)` gives float `[N, t, s]`;
    gradients flow into the parameters. Each parameter has the N heads as its first axis, so that
    a kernel may cut out the heads it works on; a numpy array is a constant.
    """

    function: Callable[..., Tensor]
    parameters: tuple = ()

    def materialize(
        self, query_positions: Tensor, key_positions: Tensor, dtype: str = "float32"
    ) -> Tensor:
        """The bias of every pair `[N, t, s]`, computed in `dtype`."""
        parameters = (ops.cast(p, dtype) if is_float(p) else p for p in self.parameters)
        return ops.cast(self.function(query_positions, key_positions, *parameters), dtype)

    def shifted(self, row: Size, key: Size) -> "PositionBias":
        """The bias of a block whose first positions are `row` and `key`, as if they were zero."""

        def function(query_positions: Tensor, key_positions: Tensor, *parameters: Tensor) -> Tensor:
            return self.function(query_positions + row, key_positions + key, *parameters)

        return PositionBias(function, self.parameters)


# What is added to the logits: a tensor, broadcastable to all of them, or a function of positions.
Bias: TypeAlias = Tensor | PositionBias


def alibi_slopes(num_heads: int) -> np.ndarray:
    """ALiBi's slope for each head, float64 `[N]` (Press et al. 2022, section 3).

    A geometric sequence from `2^(-8/N)`; for an N that is not a power of two, the sequence of the
    power below, followed by every other slope of the power above.

    >>> alibi_slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """

    def sequence(count: int) -> list[float]:
        return [2.0 ** (-8.0 * (head + 1) / count) for head in range(count)]

    power = 2 ** math.floor(math.log2(num_heads))
    slopes = sequence(power) + sequence(2 * power)[0::2][: num_heads - power]
    return np.array(slopes)


def alibi(query_positions: Tensor, key_positions: Tensor, slopes: Tensor) -> Tensor:
    """`-slope * |i - j|`, `[N, t, s]` in the dtype of the slopes."""
    distance = ops.abs(query_positions[:, None] - key_positions[None, :])
    return -slopes[:, None, None] * ops.cast(distance, slopes.dtype)


def relative_buckets(
    relative_position: Tensor, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> Tensor:
    """T5's bucket of each relative position (key minus query), int32 of the same shape.

    Half of the buckets (of each direction) hold one distance each, the other half hold ranges that
    grow logarithmically up to `max_distance`; everything beyond shares the last.

    Source: Raffel et al. 2020, section 2.1.
    """
    offset = 0
    distance = -relative_position
    if bidirectional:
        num_buckets //= 2
        offset = ops.cast(relative_position > 0, "int32") * num_buckets
    distance = ops.abs(distance) if bidirectional else ops.maximum(distance, 0)
    exact = num_buckets // 2
    ratio = ops.cast(ops.maximum(distance, exact), "float32") / exact
    growth = ops.log(ratio) / math.log(max_distance / exact) * (num_buckets - exact)
    far = ops.minimum(exact + ops.cast(growth, "int32"), num_buckets - 1)
    return offset + ops.where(distance < exact, ops.cast(distance, "int32"), far)
