"""Smoothed cross entropy against one-hot targets, and what we rely on in Keras' own losses."""

import keras
import numpy as np
import pytest

from keras_attn.training import SmoothedCrossEntropy

DRAW = np.random.default_rng(5)
LOGITS = DRAW.normal(size=(3, 5, 7)).astype("float32")
LABELS = DRAW.integers(1, 7, (3, 5))
LABELS[0, 2:] = LABELS[2, 4] = 0
WEIGHTS = DRAW.uniform(size=(3, 5)).astype("float32")


def one_hot_loss(smoothing):
    """Per position, in float64, as the paper says it."""
    logits = LOGITS.astype("float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = (1 - smoothing) * np.eye(7)[LABELS] + smoothing / 7
    return -(target * log_probabilities).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_each_position(smoothing):
    loss = SmoothedCrossEntropy(smoothing, reduction=None)(LABELS, LOGITS)
    np.testing.assert_allclose(np.array(loss), one_hot_loss(smoothing), rtol=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_mean_is_over_the_positions_that_count(weights):
    loss = SmoothedCrossEntropy(0.1, ignore_class=0)(LABELS, LOGITS, weights)
    counts = (LABELS != 0) * (1.0 if weights is None else weights)
    expected = (one_hot_loss(0.1) * counts).sum() / counts.sum()
    np.testing.assert_allclose(float(loss), expected, rtol=1e-5)


def test_an_ignored_label_may_lie_outside_the_vocabulary():
    labels = np.where(LABELS == 0, -100, LABELS)
    loss = SmoothedCrossEntropy(0.1, ignore_class=-100)(labels, LOGITS)
    expected = SmoothedCrossEntropy(0.1, ignore_class=0)(LABELS, LOGITS)
    np.testing.assert_allclose(float(loss), float(expected), rtol=1e-6)


def test_nothing_that_counts_gives_zero():
    loss = SmoothedCrossEntropy(0.1, ignore_class=0)(np.zeros_like(LABELS), LOGITS)
    assert float(loss) == 0.0


def test_the_mask_of_the_logits_counts():
    mask = LABELS != 0
    logits = keras.ops.convert_to_tensor(LOGITS)
    logits._keras_mask = keras.ops.convert_to_tensor(mask)
    loss = SmoothedCrossEntropy(0.1)(LABELS, logits)
    np.testing.assert_allclose(float(loss), one_hot_loss(0.1)[mask].mean(), rtol=1e-5)


def test_keras_own_loss_is_the_mean_over_masked_positions():
    """The reduction that masked-LM training uses: pinned here because all depends on it."""
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    expected = (one_hot_loss(0.0) * WEIGHTS).sum() / WEIGHTS.sum()
    np.testing.assert_allclose(float(loss(LABELS, LOGITS, WEIGHTS)), expected, rtol=1e-5)


def test_config_restores_the_loss():
    loss = SmoothedCrossEntropy(0.3, ignore_class=2, reduction="sum", name="smooth")
    config = keras.saving.serialize_keras_object(loss)
    restored = keras.saving.deserialize_keras_object(config)
    assert restored.name == "smooth"
    np.testing.assert_allclose(float(restored(LABELS, LOGITS)), float(loss(LABELS, LOGITS)))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_is_a_share(smoothing):
    with pytest.raises(
        ValueError, match=rf"`label_smoothing` must be in \[0, 1\), got {smoothing}"
    ):
        SmoothedCrossEntropy(smoothing)
