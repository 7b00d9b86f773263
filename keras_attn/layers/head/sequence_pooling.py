"""One vector for a sequence.

Letters: B batch, T length, D model width.
"""

from typing import Any

import keras

from keras_attn._register import register

MODES = ("first", "mean", "max")


@register()
class SequencePooling(keras.layers.Layer):
    """The first vector of a sequence ([CLS]), or the mean or the maximum of those not masked.

    Args:
        mode: "first", "mean" or "max".

    Call arguments:
        inputs: float `[B, T, D]`.
        mask: bool `[B, T]`, False at what does not count; everything counts unless given.

    Masking: more padding changes nothing; a row where nothing counts gives zeros. "first" does
    not look at the mask. The mask ends here.

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
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {', '.join(MODES)}, got {mode!r}")
        self.mode = mode
        self.supports_masking = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """Pool `inputs`."""
        if self.mode == "first":
            return inputs[:, 0]
        if mask is None:
            mask = keras.ops.ones_like(inputs[..., 0], dtype="bool")
        mask = keras.ops.cast(mask, "bool")[..., None]  # [B, T, 1]
        if self.mode == "max":
            lowest = keras.ops.cast(float("-inf"), inputs.dtype)
            highest = keras.ops.max(keras.ops.where(mask, inputs, lowest), axis=1)
            some = keras.ops.any(mask, axis=1)
            return keras.ops.where(some, highest, keras.ops.zeros_like(highest))  # [B, D]
        # float32: a count above 2048 has no float16
        total = keras.ops.sum(keras.ops.where(mask, keras.ops.cast(inputs, "float32"), 0.0), axis=1)
        count = keras.ops.sum(keras.ops.cast(mask, "float32"), axis=1)
        return keras.ops.cast(total / keras.ops.maximum(count, 1.0), inputs.dtype)

    def compute_mask(self, *_: Any, **__: Any) -> None:
        """None: there are no positions any more."""

    def get_config(self) -> dict:
        """All constructor arguments."""
        return {**super().get_config(), "mode": self.mode}
