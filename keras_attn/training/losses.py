"""Losses that Keras lacks.

For masked positions Keras' own suffices: `SparseCategoricalCrossentropy(from_logits=True,
reduction="mean_with_sample_weight")` divides by the sum of the weights, not by their number.
"""

from typing import Any

import keras
from keras import ops

from keras_attn._keras import get_keras_mask, reduce_weighted_values, register
from keras_attn.ops.numerics import mean


@register()
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross entropy of logits with smoothed integer labels, without ever making them one-hot.

    The target gives the label `1 - label_smoothing` and shares the rest evenly among all V
    classes: `loss = logsumexp(x) - (1 - label_smoothing) * x[label] - label_smoothing * mean(x)`.

    Args:
        label_smoothing: the share that is spread, in [0, 1).
        ignore_class: label of positions that do not count, such as padding, or None.
        reduction: as in every Keras loss; "mean_with_sample_weight" is the mean over the positions
            that count, weighted by `sample_weight` if one is given.
        name: name of the loss.
        dtype: dtype of the computation, defaults to float32. Labels stay exact in half precision.

    Call arguments:
        y_true: int `[...]` or `[..., 1]`, each in [0, V) or `ignore_class`.
        y_pred: float `[..., V]`, logits.
        sample_weight: float `[...]` or `[..., 1]`, or None.

    Masking: the Keras mask of the logits counts like a weight of zero. Logits at a position that is
    ignored or has weight zero may be anything, even NaN; so may the weight where it is ignored.

    Returns:
        A scalar; `[...]` without reduction.

    Raises:
        ValueError: `label_smoothing` outside [0, 1).

    Source: Vaswani et al. 2017, section 5.4.

    Example:
    >>> loss = SmoothedCrossEntropy(label_smoothing=0.1, ignore_class=0)
    >>> round(float(loss([[1, 0]], [[[0.0, 2.0], [5.0, 1.0]]])), 4)
    0.2269
    """

    def __init__(
        self,
        label_smoothing: float = 0.1,
        ignore_class: int | None = None,
        reduction: str | None = "mean_with_sample_weight",
        name: str = "smoothed_cross_entropy",
        dtype: Any = None,
    ) -> None:
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"`label_smoothing` must be in [0, 1), got {label_smoothing}")
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.label_smoothing = label_smoothing
        self.ignore_class = ignore_class

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss, reduced over the positions that count."""
        # As in Keras' Loss, which however would round the labels to the dtype of the loss.
        mask = get_keras_mask(y_pred)
        y_pred = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        labels = squeeze_labels(y_true, y_pred)
        mask = None if mask is None else of_rank(ops.cast(mask, "bool"), labels)
        if self.ignore_class is not None:
            counts = ops.not_equal(labels, self.ignore_class)
            mask = counts if mask is None else ops.logical_and(mask, counts)
        counts = mask
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight, dtype=self.dtype)
            more_axes = len(sample_weight.shape) - len(labels.shape)
            if mask is not None and more_axes >= 0:
                # Keras multiplies it by the mask in place, which leaves NaN, on torch broadcasts
                # nothing and would change the caller's weights.
                own = ops.expand_dims(mask, -1) if more_axes else mask
                sample_weight = ops.where(own, sample_weight, 0.0)
            counts = ops.not_equal(of_rank(sample_weight, labels), 0)
        losses = self._losses(labels, y_pred, counts)
        return reduce_weighted_values(losses, sample_weight, mask, self.reduction, self.dtype)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each position, zero where it is ignored."""
        labels = squeeze_labels(y_true, y_pred)
        counts = None if self.ignore_class is None else ops.not_equal(labels, self.ignore_class)
        return self._losses(labels, y_pred, counts)

    def _losses(self, labels: Any, y_pred: Any, counts: Any) -> Any:
        if counts is not None:
            labels, y_pred = even_guess(labels, y_pred, counts)
        loss = ops.sparse_categorical_crossentropy(labels, y_pred, from_logits=True)
        # logsumexp(x) - mean(x), the cross entropy with the even target
        even = ops.logsumexp(y_pred, axis=-1) - mean(y_pred, axis=-1)
        loss = (1.0 - self.label_smoothing) * loss + self.label_smoothing * even
        return loss if counts is None else ops.where(counts, loss, 0.0)

    def get_config(self) -> dict:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "ignore_class": self.ignore_class,
            "dtype": self.dtype,
        }


def squeeze_labels(y_true: Any, y_pred: Any) -> Any:
    """Integer labels `[...]` or `[..., 1]` as `[...]`, for predictions `[..., V]`."""
    labels = ops.convert_to_tensor(y_true)
    if len(labels.shape) == len(y_pred.shape) and labels.shape[-1] == 1:
        labels = ops.squeeze(labels, axis=-1)
    return labels


def even_guess(labels: Any, y_pred: Any, counts: Any) -> tuple:
    """Labels and predictions, with an even guess of label 0 at positions that do not count.

    What they held, even NaN, reaches no sum and no gradient. Ones are an even guess as logits and,
    once divided by their sum, as probabilities; zeros would be NaN.
    """
    return ops.where(counts, labels, 0), ops.where(counts[..., None], y_pred, 1.0)


def of_rank(weight: Any, labels: Any) -> Any:
    """`weight` `[B, ...]` with ones behind it, or without its last one, as `labels` has axes."""
    missing = len(labels.shape) - len(weight.shape)
    if missing == -1 and weight.shape[-1] == 1:
        return ops.squeeze(weight, axis=-1)
    return ops.reshape(weight, (*ops.shape(weight), *[1] * missing))
