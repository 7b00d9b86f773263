"""FeedForward against the paper in numpy."""

import numpy as np
import pytest

from keras_attn import layers
from tests import oracles
from tests.backend import arrays, assert_dropped, randomize, weights_of

INPUTS = np.random.default_rng(0).normal(size=(2, 5, 7)).astype("float32")


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    ("activation", "function"),
    [("relu", lambda x: np.maximum(x, 0)), ("gelu", oracles.gelu), ("gelu_tanh", gelu_tanh)],
)
def test_outputs_follow_the_equation_of_the_paper(activation, function):
    layer = layers.FeedForward(11, activation=activation)
    layer.build(INPUTS.shape)
    randomize(layer)
    outputs = arrays(layer(INPUTS))
    expected = oracles.feed_forward(INPUTS, weights_of(layer), function)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(
    ("activation", "function"), [("gelu", oracles.gelu), ("silu", lambda x: x / (1 + np.exp(-x)))]
)
def test_gated_outputs_follow_the_equation_of_the_paper(activation, function, use_bias):
    layer = layers.FeedForward(11, activation=activation, gated=True, use_bias=use_bias)
    layer.build(INPUTS.shape)
    randomize(layer)
    w = {name: weight.astype("float64") for name, weight in weights_of(layer).items()}
    assert len(w) == (6 if use_bias else 3)
    gate, hidden = (
        INPUTS @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0) for name in ("gate", "hidden")
    )
    expected = (function(gate) * hidden) @ w["output/kernel"] + w.get("output/bias", 0)
    np.testing.assert_allclose(arrays(layer(INPUTS)), expected, rtol=1e-5, atol=1e-5)


def test_training_drops_hidden_units():
    """Hidden units of one, followed by an identity matrix, show which are dropped."""
    layer = layers.FeedForward(7, activation="relu", dropout=0.3, seed=1)
    layer.build(INPUTS.shape)
    layer.set_weights([np.zeros((7, 7)), np.ones(7), np.eye(7), np.zeros(7)])
    assert_dropped(layer(INPUTS, training=True), np.ones_like(INPUTS), 0.3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"intermediate_dim": 0}, "`intermediate_dim` must be a positive integer, got 0"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
    ],
)
def test_invalid_arguments_raise(options, text):
    with pytest.raises(ValueError, match=text):
        layers.FeedForward(**{"intermediate_dim": 11, **options})
