"""Training on chunked losses equals training on logits."""

import re

import keras
import numpy as np
import pytest

from keras_attn import layers, models
from keras_attn.training import SmoothedCrossEntropy
from tests.backend import arrays

B, T, V = 4, 5, 31
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, V, (3 * B, T)).astype("int32")
LABELS = RNG.integers(0, V, (3 * B, T)).astype("int32")
WEIGHTS = RNG.uniform(0.5, 2, (3 * B, T)).astype("float32")
LABELS[:, -1] = -1
INPUTS = {"token_ids": TOKENS, "padding_mask": np.ones_like(TOKENS, bool)}
TRAINED_INPUTS = {**INPUTS, "labels": LABELS, "weights": WEIGHTS}


def gpt():
    keras.utils.set_random_seed(1)
    return models.gpt.decoder(
        "gpt_tiny", vocabulary_size=V, num_layers=1, hidden_dim=8, num_heads=2, dropout=0.0
    )


def with_loss(model, smoothing=0.0):
    labels = keras.Input((None,), dtype="int32", name="labels")
    weights = keras.Input((None,), name="weights")
    layer = layers.LinearCrossEntropy(model.get_layer("head"), smoothing)
    losses = layer(*model.get_layer("head").input, labels=labels, label_weights=weights)
    return keras.Model({**model.input, "labels": labels, "weights": weights}, losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_fit_gives_the_same_losses_and_weights_as_a_loss_on_logits(smoothing):
    plain, other = gpt(), gpt()
    trained = with_loss(other, smoothing)
    plain.compile(keras.optimizers.SGD(0.5), SmoothedCrossEntropy(smoothing, ignore_class=-1))
    trained.compile(keras.optimizers.SGD(0.5))
    options = {"batch_size": B, "epochs": 2, "shuffle": False, "verbose": 0}
    want = plain.fit(INPUTS, LABELS, sample_weight=WEIGHTS, **options).history["loss"]
    have = trained.fit(TRAINED_INPUTS, **options).history["loss"]
    np.testing.assert_allclose(have, want, rtol=1e-5)
    for one, two in zip(other.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_saved_model_has_the_same_losses(tmp_path):
    trained = with_loss(gpt(), 0.2)
    trained.compile("sgd")
    trained.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        again.evaluate(TRAINED_INPUTS, verbose=0),
        trained.evaluate(TRAINED_INPUTS, verbose=0),
        rtol=1e-6,
    )


def test_losses_at_masked_positions_equal_those_of_their_logits():
    rng = np.random.default_rng(0)
    inputs, matrix = rng.normal(size=(B, T, 6)), rng.normal(size=(V, 7))
    labels, places = rng.integers(0, V, (B, 3)), rng.integers(0, T, (B, 3))
    head = layers.MaskedLMHead()
    logits = head(inputs, matrix, masked_positions=places)
    want = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    layer = layers.LinearCrossEntropy(head)
    have = layer(inputs, matrix, labels=labels, masked_positions=places)
    np.testing.assert_allclose(arrays(have), arrays(want(labels, logits)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(arrays(layer.losses[0]), arrays(have).mean(), rtol=1e-5)


def test_ranks_of_labels_and_weights_are_squeezed():
    labels, weights = LABELS[:B], WEIGHTS[:B]
    hidden = RNG.normal(size=(B, T, 6)).astype("float32")
    layer = layers.LinearCrossEntropy(layers.LanguageModelHead())
    matrix = RNG.normal(size=(V, 6)).astype("float32")
    wanted = arrays(layer(hidden, matrix, labels=labels, label_weights=weights))
    mean = arrays(layer.losses[0])
    counts = (labels >= 0) * weights
    np.testing.assert_allclose(mean, wanted.sum() / counts.sum(), rtol=1e-5)
    for given in (labels, labels[..., None]):
        for weight in (weights, weights[..., None]):
            found = layer(hidden, matrix, labels=given, label_weights=weight)
            np.testing.assert_array_equal(arrays(found).reshape(B, T), wanted)
            np.testing.assert_allclose(arrays(layer.losses[0]), mean, rtol=1e-6)


def test_the_loss_is_zero_when_every_label_is_ignored():
    layer = layers.LinearCrossEntropy(layers.LanguageModelHead())
    ones = np.ones((B, T, 6), "float32")
    losses = layer(ones, np.ones((V, 6), "float32"), labels=np.full((B, T), -1))
    assert not arrays(losses).any() and arrays(layer.losses[0]) == 0


@pytest.mark.parametrize("name", ["labels", "label_weights"])
@pytest.mark.parametrize("shape", [(T, B), (B * T, 1), (B, 1), (1, 1), (B,), (B, T, 2)], ids=str)
def test_labels_or_weights_of_the_wrong_shape_raise(name, shape):
    layer = layers.LinearCrossEntropy(layers.LanguageModelHead())
    given = {"labels": LABELS[:B], "label_weights": WEIGHTS[:B], name: np.ones(shape, "int32")}
    wanted = f"`{name}` must have shape [batch, length] = (4, 5), got shape {shape}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        layer(np.ones((B, T, 6), "float32"), np.ones((V, 6), "float32"), **given)


def test_symbolic_labels_of_the_wrong_length_raise():
    layer = layers.LinearCrossEntropy(layers.MaskedLMHead())
    inputs, matrix = keras.Input((T, 6)), np.ones((V, 6), "float32")
    labels, places = keras.Input((T,), dtype="int32"), keras.Input((3,), dtype="int32")
    wanted = "`labels` must have shape [batch, length] = (None, 3), got shape (None, 5)"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        layer(inputs, matrix, labels=labels, masked_positions=places)


def test_the_weight_of_an_ignored_label_may_be_nan():
    layer = layers.LinearCrossEntropy(layers.LanguageModelHead())
    inputs = np.ones((B, T, 6), "float32"), np.ones((V, 6), "float32")
    weights = np.where(LABELS[:B] < 0, np.nan, WEIGHTS[:B])
    layer(*inputs, labels=LABELS[:B], label_weights=weights)
    np.testing.assert_allclose(arrays(layer.losses[0]), np.log(V), rtol=1e-5)
