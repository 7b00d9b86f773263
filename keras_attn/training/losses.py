"""Losses that Keras lacks.

For masked positions Keras' own suffices: `SparseCategoricalCrossentropy(from_logits=True,
reduction="mean_with_sample_weight")` divides by the sum of the weights, not by their number. With
`tf.distribute` it does so in each replica, and the loss is the average of the replicas' means: it
is the mean over all positions only if the weights of all replicas have the same sum. With
`keras.distribution` it is the mean over all.
"""

import keras
from keras import ops

from keras_attn._checks import check_positive, check_shape
from keras_attn._keras import get_keras_mask, reduce_weighted_values, register
from keras_attn._typing import Config, DType, Tensor
from keras_attn.ops.numerics import mean


@register()
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross entropy of logits with smoothed integer labels, without one-hot labels.

    The target distribution gives the label `1 - label_smoothing`, and spreads `label_smoothing`
    evenly over all V classes:
    `loss = logsumexp(x) - (1 - label_smoothing) * x[label] - label_smoothing * mean(x)`.

    Args:
        label_smoothing: the probability that is spread over all classes, in [0, 1).
        ignore_class: label of positions to ignore, such as padding, or None.
        reduction: as in every Keras loss; "mean_with_sample_weight" is the mean over the positions
            that are not ignored, weighted by `sample_weight` if it is given. With `tf.distribute`
            it is the average of the replicas' means.
        name: name of the loss.
        dtype: dtype of the computation; defaults to float32. Labels stay exact in half precision.

    Call arguments:
        y_true: int `[...]` or `[..., 1]`, each in [0, V) or `ignore_class`.
        y_pred: float `[..., V]`, logits.
        sample_weight: float `[...]` or `[..., 1]`, or None.

    Masking: a position that the Keras mask of the logits hides has weight zero. Logits at ignored
    positions and at weight zero may be anything, even NaN; so may the weight of an ignored one.

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
        dtype: DType = None,
    ) -> None:
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"`label_smoothing` must be in [0, 1), got {label_smoothing}")
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.label_smoothing = label_smoothing
        self.ignore_class = ignore_class

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """The loss, reduced over the positions that are not ignored."""
        # As in Keras' Loss, except that Keras would round the labels to the dtype of the loss.
        mask = get_keras_mask(y_pred)
        y_pred = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        labels = squeeze_labels(y_true, y_pred)
        mask = None if mask is None else match_rank(ops.cast(mask, "bool"), labels)
        if self.ignore_class is not None:
            used = ops.not_equal(labels, self.ignore_class)
            mask = used if mask is None else ops.logical_and(mask, used)
        used = mask
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight, dtype=self.dtype)
            more_axes = len(sample_weight.shape) - len(labels.shape)
            if mask is not None and more_axes >= 0:
                # Keras multiplies the weights by the mask in place: that keeps NaN and, on torch,
                # does not broadcast and would change the caller's weights.
                expanded = ops.expand_dims(mask, -1) if more_axes else mask
                sample_weight = ops.where(expanded, sample_weight, 0.0)
            used = ops.not_equal(match_rank(sample_weight, labels), 0)
        losses = self._losses(labels, y_pred, used)
        return reduce_weighted_values(losses, sample_weight, mask, self.reduction, self.dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of each position, zero where it is ignored."""
        labels = squeeze_labels(y_true, y_pred)
        used = None if self.ignore_class is None else ops.not_equal(labels, self.ignore_class)
        return self._losses(labels, y_pred, used)

    def _losses(self, labels: Tensor, y_pred: Tensor, used: Tensor | None) -> Tensor:
        if used is not None:
            labels, y_pred = neutral(labels, y_pred, used)
        loss = cross_entropies(labels, y_pred, from_logits=True)
        if self.label_smoothing:
            # logsumexp(x) - mean(x), the cross entropy with the uniform distribution
            uniform = ops.logsumexp(y_pred, axis=-1) - mean(y_pred, axis=-1)
            loss = (1.0 - self.label_smoothing) * loss + self.label_smoothing * uniform
        return loss if used is None else ops.where(used, loss, 0.0)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "ignore_class": self.ignore_class,
            "dtype": self.dtype,
        }


@register()
class InfoNCE(keras.losses.Loss):
    """Contrastive loss: which text of the batch belongs to this one?

    A row holds the vectors of C texts: the query q, the text p that belongs to it, and C - 2 hard
    negatives, similar texts that do not. Each query has as candidates c the texts p of all rows and
    the hard negatives of all rows:
    `loss_i = logsumexp_j(q_i . c_j / temperature) - q_i . p_i / temperature`.

    The larger the batch, the more a row learns from it. With `tf.distribute` the candidates are
    those of the replica.

    Args:
        temperature: divides the dot products; 0.05 suits vectors of norm 1.
        symmetric: whether the loss is the mean of this one and of that of finding q among the
            queries of all rows, given p.
        reduction: as in every Keras loss; "mean_with_sample_weight" is the mean over the rows,
            weighted by `sample_weight` if it is given. With `tf.distribute` it is the average of
            the replicas' means.
        name: name of the loss.
        dtype: dtype of the computation; defaults to float32.

    Call arguments:
        y_true: int32 `[B]` or `[B, 1]`, a number for each row, or None. Rows with the same number
            are not negatives of each other: give equal texts the same number if a batch may have
            them. None: each row is different.
        y_pred: float `[B, C, D]`, as of `keras_attn.models.bert_tasks.siamese`.
        sample_weight: float `[B]` or `[B, 1]`, or None.

    Masking: the texts of a row of weight zero, such as one that fills up the last batch, are no
    candidates, and their vectors may be anything, even NaN. A row without negatives, as in a batch
    of one, has loss and gradient zero.

    Returns:
        A scalar; `[B]` without reduction.

    Raises:
        ValueError: a temperature that is not positive; vectors of another rank, or of one text;
            not a number for each row.

    Source: van den Oord et al. 2018, section 2.3; Henderson et al. 2017, section 4.4 (the batch as
    negatives); Gao et al. 2021, equations 1 (temperature) and 5 (hard negatives); Radford et al.
    2021, figure 3 (symmetric).

    Example:
    >>> import numpy as np
    >>> loss = InfoNCE(temperature=0.5)
    >>> vectors = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    >>> round(float(loss(None, vectors)), 4)  # log(exp(2) + exp(0)) - 2
    0.1269
    """

    def __init__(
        self,
        temperature: float = 0.05,
        symmetric: bool = False,
        reduction: str | None = "mean_with_sample_weight",
        name: str = "info_nce",
        dtype: DType = None,
    ) -> None:
        check_positive("temperature", temperature)
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.temperature = temperature
        self.symmetric = symmetric

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """The loss, reduced over the rows."""
        # Keras' Loss would round the numbers of the rows, and hides no row from the others.
        y_pred, used = ops.convert_to_tensor(y_pred, dtype=self.dtype), None
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight, dtype=self.dtype)
            sample_weight = ops.reshape(sample_weight, (-1,))
            used = ops.not_equal(sample_weight, 0)
        losses = self._losses(y_true, y_pred, used)
        return reduce_weighted_values(losses, sample_weight, None, self.reduction, self.dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of each row."""
        return self._losses(y_true, ops.convert_to_tensor(y_pred), None)

    def _losses(self, y_true: Tensor | None, y_pred: Tensor, used: Tensor | None) -> Tensor:
        check_shape("y_pred", y_pred.shape, batch=None, texts=None, width=None)
        if y_pred.shape[1] == 1:
            raise ValueError(
                f"`y_pred` must hold two texts of a row or more, got shape {tuple(y_pred.shape)}"
            )
        if used is not None:
            y_pred = ops.where(used[:, None, None], y_pred, 0.0)
        every = ops.ones_like(y_pred[:, 0, 0], dtype="bool")
        used = every if used is None else used
        rows = ops.cumsum(ops.cast(every, "int32"))
        own = ops.equal(rows[:, None], rows)  # [B, B]
        candidates = ops.logical_or(own, used)
        if y_true is not None:
            numbers = ops.convert_to_tensor(y_true)
            numbers = ops.squeeze(numbers, -1) if len(numbers.shape) == 2 else numbers
            check_shape("y_true", numbers.shape, batch=y_pred.shape[0])
            different = ops.not_equal(numbers[:, None], numbers)
            candidates = ops.logical_and(candidates, ops.logical_or(own, different))

        queries, partners = y_pred[:, 0], y_pred[:, 1]  # [B, D]
        # Not `ops.matmul`, which rounds float64 to float32 on torch.
        similarity = queries @ ops.transpose(partners) / self.temperature  # [B, B]
        right = ops.sum(ops.where(own, similarity, 0.0), axis=1)
        logits = ops.where(candidates, similarity, -float("inf"))
        if y_pred.shape[1] != 2:
            hard = ops.reshape(y_pred[:, 2:], (-1, y_pred.shape[2]))  # [B (C - 2), D]
            shown = ops.logical_and(used[:, None], ops.ones_like(y_pred[:, 2:, 0], dtype="bool"))
            more = queries @ ops.transpose(hard) / self.temperature
            more = ops.where(ops.reshape(shown, (-1,)), more, -float("inf"))
            logits = ops.concatenate([logits, more], axis=1)
        losses = ops.logsumexp(logits, axis=1) - right
        if self.symmetric:
            logits = ops.where(candidates, ops.transpose(similarity), -float("inf"))
            losses = (losses + ops.logsumexp(logits, axis=1) - right) / 2
        return losses

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "symmetric": self.symmetric,
            "dtype": self.dtype,
        }


def squeeze_labels(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Integer labels `[...]` or `[..., 1]` as `[...]`, for predictions `[..., V]`."""
    labels = ops.convert_to_tensor(y_true)
    if len(labels.shape) == len(y_pred.shape) and labels.shape[-1] == 1:
        labels = ops.squeeze(labels, axis=-1)
    return labels


def cross_entropies(labels: Tensor, y_pred: Tensor, from_logits: bool) -> Tensor:
    """The loss of each label `[...]`, in rows: of three axes torch takes 2.9 times as long."""
    losses = ops.sparse_categorical_crossentropy(
        ops.reshape(labels, (-1,)),
        ops.reshape(y_pred, (-1, y_pred.shape[-1])),
        from_logits=from_logits,
    )
    return ops.reshape(losses, ops.shape(labels))


def neutral(labels: Tensor, y_pred: Tensor, used: Tensor) -> tuple:
    """Labels and predictions, with label 0 and a uniform prediction where `used` is False.

    The replaced values, even NaN, reach no sum and no gradient. Ones are uniform as logits and,
    once divided by their sum, as probabilities; zeros as probabilities would give NaN.
    """
    return ops.where(used, labels, 0), ops.where(used[..., None], y_pred, 1.0)


def match_rank(weight: Tensor, labels: Tensor) -> Tensor:
    """`weight` `[B, ...]` with axes of size 1 added or the last one removed, to match `labels`."""
    missing = len(labels.shape) - len(weight.shape)
    if missing == -1 and weight.shape[-1] == 1:
        return ops.squeeze(weight, axis=-1)
    return ops.reshape(weight, (*ops.shape(weight), *[1] * missing))
