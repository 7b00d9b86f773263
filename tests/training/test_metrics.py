"""Perplexity against its definition, and what we rely on in Keras' own accuracy."""

import itertools

import keras
import numpy as np
import pytest
from keras.src.backend import set_keras_mask

from keras_attn.training import Perplexity

DRAW = np.random.default_rng(5)
BATCHES = [
    (
        DRAW.integers(0, 7, (rows, 5)),
        DRAW.normal(size=(rows, 5, 7)).astype("float32"),
        DRAW.integers(0, 2, (rows, 5)).astype("float32"),
    )
    for rows in (3, 2)
]
LABELS, LOGITS, WEIGHTS = (np.concatenate(arrays) for arrays in zip(*BATCHES, strict=True))


def mean_over_weights(values):
    return (values * WEIGHTS).sum() / WEIGHTS.sum()


def updated(metric):
    for labels, logits, weights in BATCHES:
        metric.update_state(labels, logits, weights)
    return float(metric.result())


def test_perplexity_is_weighted_over_batches():
    log_partition = np.log(np.exp(LOGITS.astype("float64")).sum(-1))
    losses = log_partition - np.take_along_axis(LOGITS, LABELS[..., None], -1)[..., 0]
    expected = np.exp(mean_over_weights(losses))
    np.testing.assert_allclose(updated(Perplexity(from_logits=True)), expected, rtol=1e-5)


def test_keras_accuracy_is_the_weighted_mean_over_positions():
    expected = mean_over_weights(LOGITS.argmax(-1) == LABELS)
    metric = keras.metrics.SparseCategoricalAccuracy()
    np.testing.assert_allclose(updated(metric), expected, rtol=1e-6)


def test_perplexity_of_a_uniform_prediction_is_the_number_of_classes():
    metric = Perplexity(from_logits=True)
    metric.update_state(np.array([[3, 5]]), np.zeros((1, 2, 7)))
    np.testing.assert_allclose(float(metric.result()), 7.0, rtol=1e-6)


def test_ignored_labels_have_zero_weight():
    labels, logits = np.array([[3, 0, 5], [0, 0, 0]]), np.zeros((2, 3, 7))
    metric = Perplexity(from_logits=True, ignore_class=0)
    metric.update_state(labels, logits)
    np.testing.assert_allclose(float(metric.result()), 7.0, rtol=1e-6)
    metric.update_state(labels[:1, :1], np.eye(7)[None, 3:4] * 1e3, sample_weight=[[2.0]])
    np.testing.assert_allclose(float(metric.result()), 7.0**0.5, rtol=1e-6)


@pytest.mark.parametrize("held", [0.5, 0.0, np.nan, np.inf])
@pytest.mark.parametrize("why", ["ignored", "weight", "mask"])
def test_ignored_positions_may_hold_any_value(why, held):
    labels = np.array([0, 1, -1 if why == "ignored" else 0])
    counts = np.array([True, True, False])
    y_pred = keras.ops.convert_to_tensor([[0.7, 0.3], [0.4, 0.6], [held, held]])
    if why == "mask":
        set_keras_mask(y_pred, keras.ops.convert_to_tensor(counts))
    weights = {"ignored": None, "weight": counts, "mask": np.where(counts, 1.0, np.nan)}[why]
    metric = Perplexity(ignore_class=-1)
    metric.update_state(labels, y_pred, weights)
    np.testing.assert_allclose(float(metric.result()), (0.7 * 0.6) ** -0.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "ignored"),
    [
        *[((5,), None), ((5, 1), 0), ((5, 5), 0)],
        *(  # JAX compiles each operation of each shape
            pytest.param(*case, marks=pytest.mark.slow_on("jax"))
            for case in (((5,), 0), ((5, 1), None), ((5, 5), None))
        ),
    ],
)
def test_ranks_of_labels_weights_and_masks_are_squeezed_as_in_keras(shape, ignored):
    """The weighted mean of Keras' loss is the logarithm of the perplexity."""
    size = int(np.prod(shape))
    labels, weights = LABELS.flat[:size].reshape(shape), WEIGHTS.flat[:size].reshape(shape)
    logits = LOGITS.reshape(-1, 7)[:size].reshape(*shape, 7)
    mask = np.random.default_rng(3).integers(0, 2, shape).astype(bool)
    labels.flat[1], mask.flat[0], weights.flat[0] = 0, True, 0.5
    loss = keras.losses.SparseCategoricalCrossentropy(
        True, ignored, reduction="mean_with_sample_weight"
    )
    several_weights = [
        None,
        weights,
        weights[..., None],
        weights.reshape(5, -1)[:, 0],
        weights.reshape(5, -1)[:, :1],
    ]
    for given, weight, masked in itertools.product(
        [labels, labels[..., None]], several_weights, [False, True]
    ):
        y_pred = keras.ops.convert_to_tensor(logits)
        if masked:
            set_keras_mask(y_pred, keras.ops.convert_to_tensor(mask))
        metric = Perplexity(from_logits=True, ignore_class=ignored)
        metric.update_state(given, y_pred, weight)
        whole = np.ones(shape) if weight is None else weight.reshape(5, *[-1] * (len(shape) - 1))
        expected = np.exp(float(loss(labels, y_pred, np.broadcast_to(whole, shape))))
        np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-5)


def test_the_config_restores_the_metric():
    metric = Perplexity("p", from_logits=True, ignore_class=2)
    config = keras.saving.serialize_keras_object(metric)
    restored = keras.saving.deserialize_keras_object(config)
    assert restored.name == "p"
    np.testing.assert_allclose(updated(restored), updated(metric))
