"""Relative positions as a learned bias for each bucket of distances.

Letters: T query length, S key length, N heads.
"""

from typing import Any

import keras

from keras_attn._checks import check_count
from keras_attn._keras import register
from keras_attn._typing import Config, Initializer, Shape, Tensor
from keras_attn.ops import biases
from keras_attn.ops.numerics import wide


@register()
class RelativePositionBias(keras.layers.Layer):
    """Add to each logit a learned number for the bucket of its relative position, as T5 does.

    Give it to an attention layer or a block as `position`; called by itself it returns the bias.

    Args:
        num_heads: N.
        bidirectional: whether keys after the query have buckets of their own; False in a decoder.
        num_buckets: how many buckets there are.
        max_distance: from here on all distances share a bucket.
        initializer: initializer of the table.

    Call arguments:
        query_positions: int `[T]`.
        key_positions: int `[S]`.

    Returns:
        float32 `[N, T, S]`.

    Raises:
        ValueError: a number of heads or buckets that is not positive, or an odd number of buckets
            with `bidirectional`.

    Source: Raffel et al. 2020, section 2.1.

    Example:
    >>> import keras
    >>> positions = keras.ops.arange(5)
    >>> RelativePositionBias(num_heads=2)(positions, positions).shape
    TensorShape([2, 5, 5])
    """

    def __init__(
        self,
        num_heads: int,
        bidirectional: bool = True,
        num_buckets: int = 32,
        max_distance: int = 128,
        initializer: Initializer = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        num_buckets = check_count("num_buckets", num_buckets)
        if bidirectional and num_buckets % 2:
            raise ValueError(
                f"`num_buckets` must be even where `bidirectional` is True, got {num_buckets!r}"
            )
        self.num_heads = check_count("num_heads", num_heads)
        self.bidirectional = bidirectional
        self.num_buckets = num_buckets
        self.max_distance = check_count("max_distance", max_distance)
        self.initializer = keras.initializers.get(initializer)

    def build(self, query_positions_shape: Shape | None = None) -> None:
        """Create the table, one number for each bucket and head."""
        self.table = self.add_weight(
            shape=(self.num_buckets, self.num_heads),
            initializer=self.initializer,
            autocast=False,  # thousands of pairs add to the gradient of a number
            name="table",
        )
        self.built = True

    def call(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """The bias for each pair of positions."""
        dtype = wide(self.compute_dtype)
        return self.bias().materialize(query_positions, key_positions, dtype)

    def bias(self) -> biases.PositionBias:
        """The bias as a function of positions, for `keras_attn.ops.attention`."""
        table = keras.ops.transpose(self.table)  # [N, buckets]: a kernel may want a few heads only
        return biases.PositionBias(self._evaluate, (table,))

    def compute_output_shape(
        self, query_positions_shape: Shape, key_positions_shape: Shape
    ) -> Shape:
        """`[N, T, S]`."""
        return (self.num_heads, query_positions_shape[0], key_positions_shape[0])

    def compute_output_spec(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Float32, or float64 in a layer of it, `[N, T, S]`."""
        shape = self.compute_output_shape(query_positions.shape, key_positions.shape)
        return keras.KerasTensor(shape, wide(self.compute_dtype))

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "bidirectional": self.bidirectional,
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
            "initializer": keras.initializers.serialize(self.initializer),
        }

    def _evaluate(self, query_positions: Tensor, key_positions: Tensor, table: Tensor) -> Tensor:
        buckets = biases.relative_buckets(
            key_positions[None, :] - query_positions[:, None],
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )  # [T, S]
        return keras.ops.take(table, buckets, axis=1)  # [N, T, S]
