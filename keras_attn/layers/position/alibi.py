"""Relative positions as a penalty that grows with the distance.

Letters: T query length, S key length, N heads.
"""

from typing import Any

import keras

from keras_attn._checks import check_count
from keras_attn._keras import register
from keras_attn._typing import Config, Shape, Tensor
from keras_attn.ops import biases
from keras_attn.ops.numerics import wide


@register()
class ALiBi(keras.layers.Layer):
    """Subtract from each logit the distance of query and key, times a slope for each head.

    Give it to an attention layer or a block as `position`; called by itself it returns the bias.
    It has no weights and no maximum length.

    Args:
        num_heads: N.

    Call arguments:
        query_positions: int `[T]`.
        key_positions: int `[S]`.

    Returns:
        float32 `[N, T, S]`, zero on the diagonal and negative elsewhere.

    Raises:
        ValueError: `num_heads` is not positive.

    Source: Press et al. 2022, section 3.

    Example:
    >>> import keras
    >>> positions = keras.ops.arange(3)
    >>> keras.ops.convert_to_numpy(ALiBi(1)(positions, positions)[0, 2] * 256).tolist()
    [-2.0, -1.0, -0.0]
    """

    def __init__(self, num_heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = check_count("num_heads", num_heads)
        self.built = True

    def build(self, query_positions_shape: Shape | None = None) -> None:
        """Do nothing: there are no weights."""

    def call(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """The bias for each pair of positions."""
        dtype = wide(self.compute_dtype)
        return self.bias().materialize(query_positions, key_positions, dtype)

    def bias(self) -> biases.PositionBias:
        """The bias as a function of positions, for `keras_attn.ops.attention`."""
        return biases.PositionBias(biases.alibi, (biases.alibi_slopes(self.num_heads),))

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
        return {**super().get_config(), "num_heads": self.num_heads}
