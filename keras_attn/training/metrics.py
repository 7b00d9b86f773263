"""Metrics that Keras lacks.

For accuracy over masked positions Keras' own suffices: `SparseCategoricalAccuracy` among
`weighted_metrics` divides by the sum of the weights.
"""

import keras
from keras import ops

from keras_attn._keras import get_keras_mask, register
from keras_attn._typing import Config, DType, Tensor
from keras_attn.training.losses import (
    cross_entropies,
    match_rank,
    neutral,
    squeeze_labels,
)


@register()
class Perplexity(keras.metrics.Mean):
    """The exponential of the mean cross entropy: the number of equally likely tokens.

    `exp(sum_i w_i * -log p_i[label_i] / sum_i w_i)` over all positions since the last reset; a
    position's weight does not depend on its batch. (The crossentropy metrics of Keras average each
    row first, and count ignored positions as losses of zero.)

    Args:
        name: name of the metric.
        dtype: dtype of the state and result.
        from_logits: whether `y_pred` holds logits; otherwise probabilities.
        ignore_class: label of positions to ignore, or None.

    Call arguments:
        y_true: int `[...]` or `[..., 1]`.
        y_pred: float `[..., V]`.
        sample_weight: float that broadcasts to `[...]` or `[..., 1]`, or `[B]`; in `compile`, give
            the metric among `weighted_metrics`.

    Masking: a position that the Keras mask of `y_pred` hides has weight zero. Predictions at
    ignored positions and at weight zero may be anything, even NaN.

    Returns:
        A scalar: 1 for a perfect model, V for uniform predictions.

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
        dtype: DType = None,
        from_logits: bool = False,
        ignore_class: int | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.from_logits = from_logits
        self.ignore_class = ignore_class

    # pyrefly: ignore[bad-override]
    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Add the positions of a batch."""
        mask = get_keras_mask(y_pred)
        y_pred = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        labels = squeeze_labels(y_true, y_pred)
        weights = ops.ones(ops.shape(labels), dtype=self.dtype)
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight, dtype=self.dtype)
            weights *= match_rank(sample_weight, labels)
        used = ops.not_equal(weights, 0)
        if mask is not None:
            used = ops.logical_and(used, match_rank(ops.cast(mask, "bool"), labels))
        if self.ignore_class is not None:
            used = ops.logical_and(used, ops.not_equal(labels, self.ignore_class))
        weights = ops.where(used, weights, 0.0)
        labels, y_pred = neutral(labels, y_pred, used)
        losses = cross_entropies(labels, y_pred, self.from_logits)
        super().update_state(ops.reshape(losses, (-1,)), ops.reshape(weights, (-1,)))

    def result(self) -> Tensor:
        """The perplexity since the last reset."""
        return ops.exp(super().result())

    def get_config(self) -> Config:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "from_logits": self.from_logits,
            "ignore_class": self.ignore_class,
        }
