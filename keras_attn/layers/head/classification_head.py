"""Classes, or one number, from a vector.

Letters: B batch, D model width.
"""

from typing import Any

from keras_attn._checks import check_count
from keras_attn._register import register
from keras_attn.layers.head.dense_head import DenseHead


@register()
class ClassificationHead(DenseHead):
    """`dropout(x) W + b`: a logit for each class of a sentence or a pair; with one class, a number.

    Args:
        num_classes: how many logits; 1 for regression.
        dropout: share of the input that is zeroed in training, in [0, 1).
        kernel_initializer: of W.
        seed: of the dropout; drawn anew unless given.

    Call arguments:
        inputs: float `[..., D]`: a pooled vector, usually `[B, D]`.
        training: whether dropout acts.

    Masking: the inputs' mask goes on.

    Returns:
        logits `[..., num_classes]`, not yet a softmax.

    Raises:
        ValueError: `num_classes` is not positive.

    Source: Devlin et al. 2019, section 4.1 and figure 4 (a, b).

    Example:
    >>> import keras
    >>> ClassificationHead(num_classes=3)(keras.ops.ones((2, 5))).shape
    TensorShape([2, 3])
    """

    def __init__(
        self,
        num_classes: int,
        dropout: float = 0.1,
        kernel_initializer: Any = "glorot_uniform",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_count("num_classes", num_classes)
        super().__init__(num_classes, dropout, kernel_initializer, seed, **kwargs)
        self.num_classes = num_classes

    def get_config(self) -> dict:
        """All constructor arguments."""
        return {**super().get_config(), "num_classes": self.num_classes}
