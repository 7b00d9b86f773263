"""ClassificationHead, TokenTaggingHead, SpanHead and MultipleChoiceHead against numpy."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_attn.layers import (
    ClassificationHead,
    MultipleChoiceHead,
    SpanHead,
    TokenTaggingHead,
)

B, T, C, D, K = 2, 7, 3, 5, 11
RNG = np.random.default_rng(0)


def array(x):
    return ops.convert_to_numpy(x)


def randomized(layer, shape):
    """The layer with random weights, a batch, and the product of the two in numpy."""
    layer.build((None, *shape[1:]))
    inputs = np.float32(RNG.normal(size=shape))
    kernel, bias = (RNG.normal(size=weight.shape) for weight in layer.weights)
    layer.set_weights([kernel, bias])
    return inputs, inputs @ kernel + bias


@pytest.mark.parametrize("shape", [(B, D), (B, C, D)])
def test_classification_logits_equal_numpy(shape):
    layer = ClassificationHead(K)
    inputs, expected = randomized(layer, shape)
    np.testing.assert_allclose(array(layer(inputs)), expected, atol=1e-5)


def test_tagging_logits_equal_numpy():
    layer = TokenTaggingHead(K)
    inputs, expected = randomized(layer, (B, T, D))
    np.testing.assert_allclose(array(layer(inputs)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [ClassificationHead, TokenTaggingHead])
def test_a_head_without_bias_has_its_kernel_alone(kind):
    layer = kind(K, use_bias=False)
    inputs = np.float32(RNG.normal(size=(B, T, D)))
    layer.build(inputs.shape)
    (kernel,) = layer.weights
    np.testing.assert_allclose(array(layer(inputs)), inputs @ array(kernel), atol=1e-5)


def test_tagging_propagates_the_mask_to_the_loss():
    masked = keras.layers.Masking()(np.array([[[1.0] * D, [0.0] * D]]))
    mask = keras.src.backend.get_keras_mask(TokenTaggingHead(K)(masked))
    assert array(mask).tolist() == [[True, False]]


def test_multiple_choice_logits_equal_numpy():
    layer = MultipleChoiceHead()
    inputs, expected = randomized(layer, (B, C, D))
    np.testing.assert_allclose(array(layer(inputs)), expected[..., 0], atol=1e-5)


def test_span_logits_equal_numpy():
    layer = SpanHead()
    inputs, expected = randomized(layer, (B, T, D))
    outputs = layer(inputs)
    np.testing.assert_allclose(array(outputs["start"]), expected[..., 0], atol=1e-5)
    np.testing.assert_allclose(array(outputs["end"]), expected[..., 1], atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "mixed_float16"])
def test_masked_positions_get_zero_probability(dtype):
    layer = SpanHead(dtype=dtype)
    inputs, expected = randomized(layer, (B, T, D))
    mask = np.arange(T)[None] >= np.array([[2], [6]])
    outputs = layer(inputs, mask=mask)
    for index, name in enumerate(("start", "end")):
        logits = array(ops.cast(outputs[name], "float32"))
        assert np.isfinite(logits).all()
        exponent = np.exp(expected[..., index]) * mask
        share = exponent / exponent.sum(-1, keepdims=True)
        softmax = array(ops.softmax(logits, axis=-1))
        np.testing.assert_allclose(softmax, share, atol=1e-6 if dtype == "float32" else 2e-2)
        assert (softmax[~mask] == 0).all()


@pytest.mark.parametrize("make", [lambda **k: ClassificationHead(K, **k), MultipleChoiceHead])
def test_dropout_is_applied_only_in_training(make):
    layer, inputs = make(dropout=0.5, seed=1), np.ones((B, C, D), "float32")
    first, second = array(layer(inputs)), array(layer(inputs))
    np.testing.assert_array_equal(first, second)
    trained = array(layer(inputs, training=True))
    assert not np.allclose(first, trained)


def test_span_and_tagging_heads_train_with_keras_losses():
    inputs = keras.Input((T, D))
    outputs = {"tags": TokenTaggingHead(3, dropout=0.0)(inputs), **SpanHead()(inputs)}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"tags": loss, "start": loss, "end": loss})
    x = RNG.normal(size=(B, T, D))
    y = {"tags": RNG.integers(0, 3, (B, T)), "start": np.array([1, 4]), "end": np.array([2, 6])}
    losses = model.fit(x, y, epochs=2, verbose=0).history["loss"]
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("layer", "shape", "text"),
    [
        (TokenTaggingHead(K), (B, D), r"`inputs` must have shape \[batch, length, width\], got sh"),
        (
            SpanHead(),
            (B, D),
            r"`inputs` must have shape \[batch, length, width\], got shape \(2, 5",
        ),
        (MultipleChoiceHead(), (B, D), r"`inputs` must have shape \[batch, choices, width\], got "),
    ],
)
def test_inputs_of_the_wrong_rank_raise(layer, shape, text):
    with pytest.raises(ValueError, match=text):
        layer(np.ones(shape, "float32"))


@pytest.mark.parametrize("kind", [ClassificationHead, TokenTaggingHead])
def test_zero_classes_raise(kind):
    with pytest.raises(ValueError, match="`num_classes` must be a positive integer, got 0"):
        kind(num_classes=0)
