"""The dense layer inside attention and feed-forward."""

from typing import Any

import keras

from keras_attn import ops
from keras_attn._register import register


@register()
class Projection(keras.layers.Dense):
    """`keras.layers.Dense` over the last axis, run as one product of two matrices.

    Weights, LoRA and quantization are Keras' own; only the product goes through `ops.dense`, which
    each backend's graph fuses with the bias and the activation.

    Example:
    >>> import keras
    >>> Projection(3)(keras.ops.ones((2, 5, 7))).shape
    TensorShape([2, 5, 3])
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Project `[..., D]` to `[..., units]`."""
        return ops.dense(inputs, self.kernel, self.bias, self.activation)

    def quantize(self, mode: str | None = None, type_check: bool = True, config: Any = None) -> Any:
        """As `Dense.quantize`, which refuses any subclass unless told not to look."""
        return super().quantize(mode, type_check=False, config=config)
