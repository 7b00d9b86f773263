"""Which of several choices is right.

Letters: B batch, C choices, D model width.
"""

from typing import Any

from keras_attn._register import register
from keras_attn.layers.head.dense_head import DenseHead


@register()
class MultipleChoiceHead(DenseHead):
    """`dropout(x) w + b`: one logit for each choice, to be compared with the other choices'.

    Args:
        dropout: share of the input that is zeroed in training, in [0, 1).
        kernel_initializer: of w.
        seed: of the dropout; drawn anew unless given.

    Call arguments:
        inputs: float `[B, C, D]`, the pooled vector of each choice with its question.
        training: whether dropout acts.

    Masking: the inputs' mask goes on.

    Returns:
        logits `[B, C]`, not yet a softmax over C.

    Raises:
        ValueError: inputs of another rank.

    Source: Devlin et al. 2019, section 4.4.

    Example:
    >>> import keras
    >>> MultipleChoiceHead()(keras.ops.ones((2, 3, 5))).shape
    TensorShape([2, 3])
    """

    input_axes = ("batch", "choices", "width")

    def __init__(
        self,
        dropout: float = 0.1,
        kernel_initializer: Any = "glorot_uniform",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(1, dropout, kernel_initializer, seed, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Score each choice."""
        return super().call(inputs, training=training)[..., 0]  # [B, C]

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """Shape of the logits."""
        return tuple(input_shape[:-1])
