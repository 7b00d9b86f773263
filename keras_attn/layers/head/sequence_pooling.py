"""One vector for a sequence.

Letters: B batch, T length, D model width.
"""

from typing import Any

import keras

from keras_attn._checks import check_choice, check_shape, to_mask
from keras_attn._keras import register
from keras_attn.ops.numerics import wide

MODES = ("first", "mean", "max")


@register()
class SequencePooling(keras.layers.Layer):
    """The first vector of a sequence ([CLS]), or the mean or maximum of the unmasked vectors.

    Args:
        mode: "first", "mean" or "max".

    Call arguments:
        inputs: float `[B, T, D]`.
        mask: bool `[B, T]`, False at positions to ignore; defaults to all True.

    Masking: extra padding does not change the output; a fully masked row gives zeros. "first"
    ignores the mask. No mask is propagated.

    Returns:
        `[B, D]`.

    Raises:
        ValueError: an unknown mode.

    Source: Devlin et al. 2019, section 3 ([CLS]); Reimers and Gurevych 2019, section 3.

    Example:
    >>> import keras, numpy as np
    >>> inputs, mask = np.array([[[1.0], [3.0], [50.0]]]), np.array([[True, True, False]])
    >>> keras.ops.convert_to_numpy(SequencePooling("mean")(inputs, mask=mask)).tolist()
    [[2.0]]
    """

    def __init__(self, mode: str = "mean", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice("mode", mode, MODES)
        self.mode = mode
        self.supports_masking = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """Pool `inputs`."""
        mask = self._checked(inputs, mask)
        if self.mode == "first":
            return inputs[:, 0]
        if mask is None:
            mask = keras.ops.ones_like(inputs[..., 0], dtype="bool")
        mask = keras.ops.expand_dims(keras.ops.cast(mask, "bool"), -1)  # [B, T, 1]
        if self.mode == "max":
            lowest = keras.ops.cast(float("-inf"), inputs.dtype)
            highest = keras.ops.max(keras.ops.where(mask, inputs, lowest), axis=1)
            some = keras.ops.any(mask, axis=1)
            return keras.ops.where(some, highest, keras.ops.zeros_like(highest))  # [B, D]
        dtype = wide(inputs.dtype)  # float16 counts only to 2048
        total = keras.ops.sum(keras.ops.where(mask, keras.ops.cast(inputs, dtype), 0.0), axis=1)
        count = keras.ops.sum(keras.ops.cast(mask, dtype), axis=1)
        return keras.ops.cast(total / keras.ops.maximum(count, 1.0), inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """Shape of the pooled vectors."""
        return (input_shape[0], input_shape[-1])

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        """Symbolic vectors."""
        self._checked(inputs, mask)
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), self.compute_dtype)

    def compute_mask(self, *_: Any, **__: Any) -> None:
        """None: the output has no positions."""

    def get_config(self) -> dict:
        """All constructor arguments."""
        return {**super().get_config(), "mode": self.mode}

    def _checked(self, inputs: Any, mask: Any) -> Any:
        check_shape("inputs", inputs.shape, batch=None, length=None, width=None)
        return to_mask("mask", mask, batch=inputs.shape[0], length=inputs.shape[1])
