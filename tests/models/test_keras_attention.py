"""Weights of keras.layers.MultiHeadAttention copied into our layers."""

import keras
import numpy as np
import pytest

from keras_attn import layers, weights

B, T, S, D, DV, N, H = 2, 5, 7, 6, 11, 3, 4


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def randomize(layer, rng):
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("value_dim", [None, 2])
def test_copied_weights_give_the_same_outputs(use_bias, value_dim, rng):
    options = {"value_dim": value_dim, "use_bias": use_bias, "output_shape": 13}
    theirs = keras.layers.MultiHeadAttention(N, H, **options)
    ours = layers.MultiHeadCrossAttention(N, H, **options)
    query, value = np.float32(rng.normal(size=(B, T, D))), np.float32(rng.normal(size=(B, S, DV)))
    theirs(query, value, return_attention_scores=True), ours(query, value)
    randomize(theirs, rng)
    weights.copy_keras_attention(theirs, ours)
    # With scores: Keras' fused path on JAX fails where value_dim is not key_dim.
    expected, _ = theirs(query, value, return_attention_scores=True)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(ours(query, value)),
        keras.ops.convert_to_numpy(expected),
        rtol=1e-5,
        atol=1e-4,
    )


def test_weights_are_copied_between_layers_inside_models(rng):
    inputs = keras.Input((T, D))
    theirs = keras.layers.MultiHeadAttention(N, H, name="theirs")
    first = keras.Model(inputs, theirs(inputs, inputs))
    ours = layers.MultiHeadSelfAttention(N, H)
    second = keras.Model(inputs, ours(inputs))
    randomize(theirs, rng)
    weights.copy_keras_attention(theirs, ours)
    batch = np.float32(rng.normal(size=(B, T, D)))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(second(batch)),
        keras.ops.convert_to_numpy(first(batch)),
        rtol=1e-5,
        atol=1e-4,
    )


def built(kind, *args, width=D, **kwargs):
    layer = kind(*args, **kwargs)
    layer.build((None, None, D), (None, None, width))
    return layer


THEIRS = keras.layers.MultiHeadAttention
OURS = layers.MultiHeadCrossAttention


def test_a_source_of_another_class_raises():
    with pytest.raises(TypeError, match="must be a keras.layers.MultiHeadAttention, got Dense"):
        weights.copy_keras_attention(keras.layers.Dense(1), OURS(N, H))


def test_an_unbuilt_target_raises():
    with pytest.raises(ValueError, match="`target` must be built, got 'fresh' without weights"):
        weights.copy_keras_attention(built(THEIRS, N, H), OURS(N, H, name="fresh"))


def test_unequal_head_counts_raise():
    with pytest.raises(ValueError, match="`target` must have 3 heads as `source`, got 4"):
        weights.copy_keras_attention(built(THEIRS, 3, 4), built(OURS, 4, 3))


def test_unequal_widths_raise():
    text = r"got key {'kernel': \(11, 12\), .* for {'kernel': \(6, 12\), .*, value {'kernel': "
    with pytest.raises(ValueError, match=text):
        weights.copy_keras_attention(built(THEIRS, N, H), built(OURS, N, H, width=DV))


def test_biases_on_one_side_only_raise():
    with pytest.raises(
        ValueError, match="got query {'kernel': .6, 12.} for {'kernel': .6, 12., 'bias'"
    ):
        weights.copy_keras_attention(built(THEIRS, N, H), built(OURS, N, H, use_bias=False))
    with pytest.raises(
        ValueError, match="got query {'kernel': .6, 12., 'bias': .12,.} for {'kernel': .6, 12.}"
    ):
        weights.copy_keras_attention(built(THEIRS, N, H, use_bias=False), built(OURS, N, H))
