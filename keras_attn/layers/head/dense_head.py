"""What the heads of the task models share: dropout, then one dense layer.

Letters: D model width.
"""

from typing import Any

import keras

from keras_attn._checks import check_rate, check_shape
from keras_attn.layers.sublayers import CompositeLayer, Projection


class DenseHead(CompositeLayer):
    """`dropout(x) W + b`, the base of `ClassificationHead` and its kin; no public layer.

    Args:
        units: width of the output.
        dropout: share of the input that is zeroed in training, in [0, 1).
        kernel_initializer: of W.
        seed: of the dropout; drawn anew unless given.
    """

    input_axes: tuple[str, ...] | None = None  # names of the axes, where the rank is fixed

    def __init__(
        self, units: int, dropout: float, kernel_initializer: Any, seed: int | None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_rate("dropout", dropout)
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = seed
        self.supports_masking = True
        self.dropout_layer = keras.layers.Dropout(
            dropout, seed=seed, dtype=self.dtype_policy, name="dropout"
        )
        self.output_projection = Projection(
            units,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name="output",
        )

    def build(self, input_shape: Any) -> None:
        """Create the projection."""
        if self.input_axes:
            check_shape("inputs", input_shape, **dict.fromkeys(self.input_axes))
        self.output_projection.build(input_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Project `inputs`."""
        return self.output_projection(self.dropout_layer(inputs, training=training))

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """Shape of the logits."""
        return (*input_shape[:-1], self.output_projection.units)

    def get_config(self) -> dict:
        """The constructor arguments that all heads have."""
        return {
            **super().get_config(),
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
        }
