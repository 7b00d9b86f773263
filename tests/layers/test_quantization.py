"""Layers whose parts were quantized come back from a file as they were."""

import keras
import numpy as np
import pytest

from keras_attn import layers
from tests.backend import arrays

INPUTS = np.random.default_rng(0).normal(size=(2, 5, 12)).astype("float32")
MADE = {
    "attention": lambda: layers.MultiHeadAttention(3, 4),
    "self-attention": lambda: layers.MultiHeadSelfAttention(3),
    "feed-forward": lambda: layers.FeedForward(7),
    "block": lambda: layers.TransformerEncoderBlock(3, 7),
}


@pytest.mark.parametrize("kind", MADE)
def test_a_quantized_layer_reloads(kind, tmp_path):
    inputs = keras.Input((None, 12))
    layer = MADE[kind]()
    outputs = layer(inputs, inputs) if kind == "attention" else layer(inputs)
    model = keras.Model(inputs, outputs)
    exact = arrays(model(INPUTS))
    dense = keras.layers.Dense, keras.layers.EinsumDense
    parts = [part for part in layer._flatten_layers() if isinstance(part, dense)]
    for part in parts[1:]:  # the first stays as it is
        part.quantize("int8")
    expected = arrays(model(INPUTS))
    assert len(parts) > 1 and 0 < abs(expected - exact).max() < 0.1 * abs(exact).max()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(arrays(again(INPUTS)), expected, rtol=1e-5, atol=1e-6)
    nested = keras.Sequential([keras.Input((None, 12)), model])
    nested.save(tmp_path / "nested.keras")
    again = keras.models.load_model(tmp_path / "nested.keras")
    np.testing.assert_allclose(arrays(again(INPUTS)), expected, rtol=1e-5, atol=1e-6)
