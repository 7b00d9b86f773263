"""Projection against numpy, with LoRA too."""

import keras
import numpy as np
import pytest

from keras_attn import layers
from keras_attn.layers.sublayers import Projection
from tests import oracles
from tests.backend import arrays, randomize, weights_of

INPUTS = np.random.default_rng(0).normal(size=(2, 5, 7)).astype("float32")
ALPHA = 5.0


def lora_kernel(layer):
    """`W + alpha / rank A B`, from a layer with LoRA."""
    low, high = (
        arrays(w.value).astype("float64") for w in (layer.lora_kernel_a, layer.lora_kernel_b)
    )
    return arrays(layer._kernel.value) + ALPHA / low.shape[1] * low @ high


@pytest.mark.parametrize("rank", [None, 2])
def test_projection_equals_the_matrix_product(rank):
    layer = Projection(3, activation="relu")
    layer.build(INPUTS.shape)
    if rank is not None:
        layer.enable_lora(rank, lora_alpha=ALPHA)
    randomize(layer)
    kernel = weights_of(layer)["kernel"] if rank is None else lora_kernel(layer)
    expected = np.maximum(INPUTS @ kernel + weights_of(layer)["bias"], 0)
    np.testing.assert_allclose(arrays(layer(INPUTS)), expected, rtol=1e-5, atol=1e-5)


def test_lora_is_applied_inside_a_feed_forward_layer():
    layer = layers.FeedForward(11, activation="relu")
    layer.build(INPUTS.shape)
    for part in (layer.hidden_projection, layer.output_projection):
        part.enable_lora(2, lora_alpha=ALPHA)
    randomize(layer)
    weights = weights_of(layer)
    weights["hidden/kernel"] = lora_kernel(layer.hidden_projection)
    weights["output/kernel"] = lora_kernel(layer.output_projection)
    expected = oracles.feed_forward(INPUTS, weights, lambda x: np.maximum(x, 0))
    np.testing.assert_allclose(arrays(layer(INPUTS)), expected, rtol=1e-5, atol=1e-5)


def test_adapters_are_trained_after_loading_weights_saved_without_lora(tmp_path):
    def model():
        inputs = keras.Input((5, 7))
        return keras.Model(inputs, Projection(3)(inputs))

    plain, adapted = model(), model()
    plain.save_weights(tmp_path / "plain.weights.h5")
    layer = adapted.layers[-1]
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(layer.lora_kernel_b + 1.0)
    adapted.load_weights(tmp_path / "plain.weights.h5")
    np.testing.assert_allclose(arrays(adapted(INPUTS)), arrays(plain(INPUTS)), 1e-6, 1e-6)
    adapted.compile("sgd", "mse")
    adapted.train_on_batch(INPUTS, np.ones((2, 5, 3), "float32"))
    assert abs(arrays(layer.lora_kernel_b.value)).max() > 0
    adapted.save_weights(tmp_path / "adapted.weights.h5")
    plain.load_weights(tmp_path / "adapted.weights.h5")  # merged
    np.testing.assert_allclose(arrays(plain(INPUTS)), arrays(adapted(INPUTS)), 1e-5, 1e-6)


def test_float8_and_lora_together_raise():
    message = "`enable_lora` and `quantize` must not meet in float8, for which Keras has no LoRA"
    layer = Projection(3)
    layer.build(INPUTS.shape)
    layer.quantize("float8")
    with pytest.raises(ValueError, match=message):
        layer.enable_lora(2)
    layer = Projection(3)
    layer.build(INPUTS.shape)
    layer.enable_lora(2)
    with pytest.raises(ValueError, match=message):
        layer.quantize("float8")
