"""Metrics that Keras lacks.

For accuracy over masked positions Keras' own suffices: `SparseCategoricalAccuracy` among
`weighted_metrics` divides by the sum of the weights.
"""

from typing import Any

import keras
from keras import ops

from keras_attn._register import register


@register()
class Perplexity(keras.metrics.SparseCategoricalCrossentropy):
    """The exponential of the mean cross entropy: among how many pieces the model hesitates.

    `exp(sum_i w_i * -log p_i[label_i] / sum_i w_i)` over all positions since the last reset.

    Args:
        name: of the metric.
        dtype: of the state and result.
        from_logits: whether `y_pred` holds logits; otherwise probabilities.
        ignore_class: label of positions that do not count, or None.
        axis: that of the classes.

    Call arguments:
        y_true: int `[...]`.
        y_pred: float `[..., V]`.
        sample_weight: float `[...]`; in `compile` the metric belongs to `weighted_metrics`.

    Returns:
        A scalar: 1 for a perfect model, V for an even guess.

    Source: Jelinek et al. 1977, "Perplexity: a measure of the difficulty of speech recognition
    tasks".

    Example:
    >>> import numpy as np
    >>> metric = Perplexity(from_logits=True)
    >>> metric.update_state(np.array([1, 3]), np.zeros((2, 7)))
    >>> round(float(metric.result()), 4)
    7.0
    """

    def __init__(
        self,
        name: str = "perplexity",
        dtype: Any = None,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
    ) -> None:
        super().__init__(
            name=name, dtype=dtype, from_logits=from_logits, ignore_class=ignore_class, axis=axis
        )

    def result(self) -> Any:
        """The perplexity since the last reset."""
        return ops.exp(super().result())
