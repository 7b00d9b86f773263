"""One vector for a sequence.

Letters: B batch, T length, D model width.
"""

from typing import Any

import keras

from keras_attn._checks import check_choice, check_shape, to_mask
from keras_attn._keras import register
from keras_attn._typing import Config, Shape, Tensor
from keras_attn.ops.numerics import at_least, wide, widen

MODES = ("first", "last", "mean", "max")
SHORTEST = 1e-12  # a shorter vector is divided by this, not by its norm


@register()
class SequencePooling(keras.layers.Layer):
    """The first or last unmasked vector of a sequence, or the mean or maximum of all of them.

    "first" takes [CLS], "last" the last token of a causal model, with padding on either side.

    Args:
        mode: "first", "last", "mean" or "max".
        normalize: whether the result is divided by its Euclidean norm, so that the dot product of
            two is their cosine.

    Call arguments:
        inputs: float `[B, T, D]`.
        mask: bool `[B, T]`, False at positions to ignore; defaults to all True.

    Masking: extra padding does not change the output; a row that is fully masked, or of length 0,
    gives zeros. No mask is propagated. Sums and norms are computed in float32 at least.

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

    def __init__(self, mode: str = "mean", normalize: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice("mode", mode, MODES)
        self.mode = mode
        self.normalize = normalize
        self.supports_masking = True

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool `inputs`."""
        vectors = self._pooled(inputs, self._checked(inputs, mask))
        if self.normalize:
            vectors = widen(vectors)
            squares = keras.ops.sum(keras.ops.square(vectors), axis=-1, keepdims=True)  # [B, 1]
            # The bound keeps a vector of zeros, and its gradient, free of NaN.
            vectors = vectors * keras.ops.rsqrt(at_least(squares, SHORTEST**2))
        return keras.ops.cast(vectors, inputs.dtype)

    def _pooled(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """`[B, D]`, of the mean in a wide dtype."""
        if 0 in inputs.shape[:2]:
            return keras.ops.sum(inputs, axis=1)  # zeros, while Keras' maximum of nothing raises
        if mask is None and self.mode in ("first", "last"):
            return inputs[:, 0 if self.mode == "first" else -1]
        used = keras.ops.ones_like(inputs[..., 0], dtype="bool")
        if mask is not None:
            used = keras.ops.logical_and(used, mask)  # [B, T]
        if self.mode in ("first", "last"):
            number = keras.ops.cumsum(keras.ops.cast(used, "int32"), axis=1)  # 1 at the first
            wanted = 1 if self.mode == "first" else keras.ops.max(number, axis=1, keepdims=True)
            used = keras.ops.logical_and(used, keras.ops.equal(number, wanted))
        chosen = keras.ops.expand_dims(used, -1)  # [B, T, 1]
        if self.mode == "max":
            lowest = keras.ops.cast(float("-inf"), inputs.dtype)
            highest = keras.ops.max(keras.ops.where(chosen, inputs, lowest), axis=1)
            some = keras.ops.any(chosen, axis=1)
            return keras.ops.where(some, highest, keras.ops.zeros_like(highest))  # [B, D]
        dtype = wide(inputs.dtype)  # float16 counts only to 2048
        total = keras.ops.sum(keras.ops.where(chosen, keras.ops.cast(inputs, dtype), 0.0), axis=1)
        if self.mode != "mean":
            return total
        count = keras.ops.sum(keras.ops.cast(chosen, dtype), axis=1)
        return total / at_least(count, 1.0)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Shape of the pooled vectors."""
        return (input_shape[0], input_shape[-1])

    def compute_output_spec(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Symbolic vectors."""
        self._checked(inputs, mask)
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), self.compute_dtype)

    def compute_mask(self, *_: Any, **__: Any) -> None:
        """None: the output has no positions."""

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {**super().get_config(), "mode": self.mode, "normalize": self.normalize}

    def _checked(self, inputs: Tensor, mask: Tensor | None) -> Tensor | None:
        check_shape("inputs", inputs.shape, batch=None, length=None, width=None)
        return to_mask("mask", mask, batch=inputs.shape[0], length=inputs.shape[1])
