"""Positions as learned vectors.

Letters: B batch, T length, D model width.
"""

from typing import Any

import keras

from keras_attn._checks import check_count, is_integer, optional_count, to_integers
from keras_attn._keras import register
from keras_attn._typing import Config, Initializer, Shape, Size, Tensor
from keras_attn.layers.position.sinusoidal_position_encoding import (
    check_combination,
    combine,
    combined_width,
)
from keras_attn.ops.numerics import table_rows


@register()
class LearnedPositionEmbedding(keras.layers.Layer):
    """Add a learned vector to each position.

    Args:
        max_length: rows of the table: the longest sequence.
        combination: "add", or "concatenate" to give `[B, T, D + dim]`.
        dim: width of the vectors where they are concatenated; defaults to the inputs' width.
        initializer: initializer of the table.

    Call arguments:
        inputs: float `[B, T, D]`.
        positions: int `[B, T]`, such as those of packed sequences; defaults to 0, 1, 2 and so on.
            A position beyond the table is clipped to its last row.
        offset: int or scalar tensor, added to the positions (decoding with a cache).

    Masking: the inputs' mask is propagated to the output.

    Returns:
        `[B, T, D]`, or wider if concatenated, in the compute dtype.

    Raises:
        ValueError: a sequence longer than the table, an unknown combination, `dim` with "add",
            a `max_length` that is not positive, or positions that are no integers.

    Source: Gehring et al. 2017, section 3.1; Devlin et al. 2019, section 3.

    Example:
    >>> import keras
    >>> LearnedPositionEmbedding(max_length=16)(keras.ops.zeros((2, 7, 4))).shape
    TensorShape([2, 7, 4])
    """

    def __init__(
        self,
        max_length: int,
        combination: str = "add",
        dim: int | None = None,
        initializer: Initializer = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_combination(combination, dim)
        self.max_length = check_count("max_length", max_length)
        self.combination = combination
        self.dim = optional_count("dim", dim)
        self.initializer = keras.initializers.get(initializer)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        """Create the table."""
        self.table = self.add_weight(
            shape=(self.max_length, self.dim or input_shape[-1]),
            initializer=self.initializer,
            autocast=False,
            name="table",
        )

    def call(self, inputs: Tensor, positions: Tensor | None = None, offset: Size = 0) -> Tensor:
        """Add the vectors of the positions of `inputs`."""
        length = inputs.shape[1]
        start = int(offset) if is_integer(offset) else 0
        counted = positions is None and isinstance(length, int)
        if counted and length + start > self.max_length:
            raise ValueError(
                f"`inputs` must not be longer than the position table's {self.max_length} rows, "
                f"got length {length} at offset {start}"
            )
        if positions is None:
            positions = keras.ops.arange(keras.ops.shape(inputs)[1], dtype="int32")
        rows = to_integers("positions", positions) + to_integers("offset", offset)
        rows = keras.ops.clip(rows, 0, self.max_length - 1)
        return combine(self.combination, inputs, table_rows(self.table, rows, self.compute_dtype))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The inputs' shape, wider if concatenated."""
        return combined_width(self.combination, input_shape, self.dim)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "max_length": self.max_length,
            "combination": self.combination,
            "dim": self.dim,
            "initializer": keras.initializers.serialize(self.initializer),
        }
