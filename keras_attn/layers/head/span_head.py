"""Where an answer starts and where it ends.

Letters: B batch, T length, D model width.
"""

from typing import Any

import keras

from keras_attn._checks import check_shape, to_mask
from keras_attn._register import register
from keras_attn.layers.head.dense_head import DenseHead

EXCLUDED = -3e4  # far below any logit, and finite in float16 too


@register()
class SpanHead(DenseHead):
    """`dropout(x) W + b`: two logits for every position, that the answer starts or ends there.

    An impossible answer starts and ends at the first position, [CLS].

    Args:
        dropout: share of the input that is zeroed in training, in [0, 1).
        kernel_initializer: of W.
        seed: of the dropout; drawn anew unless given.

    Call arguments:
        inputs: float `[B, T, D]`, the encoder's output.
        mask: bool `[B, T]`, True where an answer may start or end: the context, and [CLS] where an
            answer may be missing; everywhere unless given.
        training: whether dropout acts.

    Masking: a masked position gets a logit of -30000, so a softmax gives it nothing; the mask
    ends here.

    Returns:
        a dict of logits: "start" and "end", each `[B, T]`, not yet a softmax over T.

    Raises:
        ValueError: inputs that are no sequence.

    Source: Devlin et al. 2019, sections 4.2 and 4.3.

    Example:
    >>> import keras, numpy as np
    >>> logits = SpanHead()(keras.ops.ones((1, 3, 5)), mask=np.array([[True, False, True]]))
    >>> (keras.ops.convert_to_numpy(logits["start"]) < -29999).tolist()
    [[False, True, False]]
    """

    input_axes = ("batch", "length", "width")

    def __init__(
        self,
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(2, dropout, kernel_initializer, seed, **kwargs)

    def call(self, inputs: Any, mask: Any = None, training: bool | None = None) -> dict:
        """Point at starts and ends."""
        mask = self._checked(inputs, mask)
        logits = super().call(inputs, training=training)  # [B, T, 2]
        if mask is not None:
            allowed = keras.ops.cast(mask, "bool")[..., None]
            logits = keras.ops.where(allowed, logits, keras.ops.cast(EXCLUDED, logits.dtype))
        return {"start": logits[..., 0], "end": logits[..., 1]}  # [B, T] each

    def compute_output_shape(self, input_shape: Any) -> dict:
        """Shapes of the logits."""
        return {"start": tuple(input_shape[:-1]), "end": tuple(input_shape[:-1])}

    def compute_output_spec(
        self, inputs: Any, mask: Any = None, training: bool | None = None
    ) -> dict:
        """Symbolic logits."""
        self._checked(inputs, mask)
        shapes = self.compute_output_shape(inputs.shape)
        return {k: keras.KerasTensor(shape, self.compute_dtype) for k, shape in shapes.items()}

    def compute_mask(self, *_: Any, **__: Any) -> None:
        """None: the logits of excluded positions are part of the softmax."""

    def _checked(self, inputs: Any, mask: Any) -> Any:
        check_shape("inputs", inputs.shape, batch=None, length=None, width=None)
        return to_mask("mask", mask, batch=inputs.shape[0], length=inputs.shape[1])
