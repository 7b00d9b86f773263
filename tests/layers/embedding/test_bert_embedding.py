"""BertEmbedding against the sum of its tables in numpy."""

import numpy as np
import pytest

from keras_attn import layers
from tests import oracles
from tests.backend import arrays, assert_dropped, randomize, weights_of

IDS = np.array([[3, 1, 10, 2, 0], [5, 7, 7, 0, 0]], "int32")
SEGMENTS = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]], "int32")


def test_outputs_are_the_normalized_sum_of_the_tables():
    layer = layers.BertEmbedding(11, 4, max_length=7, mask_zero=True, layer_norm_epsilon=1e-3)
    layer.build(IDS.shape)
    randomize(layer)
    outputs = arrays(layer(IDS, SEGMENTS))
    weights = weights_of(layer)
    total = weights["token/embeddings"][IDS] + weights["segment/embeddings"][SEGMENTS]
    total = (total + weights["position/table"][:5]).astype("float64")
    expected = oracles.layer_norm(total, weights["norm/gamma"], weights["norm/beta"], 1e-3)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(arrays(layer.compute_mask(IDS)), IDS != 0)
    zeros = arrays(layer(IDS, np.zeros_like(IDS)))
    np.testing.assert_array_equal(arrays(layer(IDS)), zeros)


def test_positions_may_be_sinusoids():
    layer = layers.BertEmbedding(11, 4, position=layers.SinusoidalPositionEncoding())
    layer.build(IDS.shape)
    randomize(layer)
    outputs = arrays(layer(IDS, SEGMENTS))
    weights = weights_of(layer)
    total = weights["token/embeddings"][IDS] + weights["segment/embeddings"][SEGMENTS]
    angles = np.arange(5)[:, None] / 10_000.0 ** (np.array([0, 2]) / 4)
    total[..., ::2] += np.sin(angles)
    total[..., 1::2] += np.cos(angles)
    expected = oracles.layer_norm(total, weights["norm/gamma"], weights["norm/beta"], 1e-12)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_positions_segments_and_bias_can_be_omitted():
    layer = layers.BertEmbedding(11, 4, max_length=0, num_segments=0, use_bias=False)
    layer.build(IDS.shape)
    randomize(layer)
    weights = weights_of(layer)
    assert weights.keys() == {"token/embeddings", "norm/gamma"}
    vectors = weights["token/embeddings"][IDS].astype("float64")
    expected = oracles.layer_norm(vectors, weights["norm/gamma"], 0.0, 1e-12)
    np.testing.assert_allclose(arrays(layer(IDS)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(arrays(layer(IDS, SEGMENTS, positions=IDS)), arrays(layer(IDS)))


def test_training_drops_the_output():
    layer = layers.BertEmbedding(11, 64, dropout=0.3, seed=1)
    assert_dropped(layer(IDS, training=True), layer(IDS), 0.3)


def test_invalid_input_raises():
    layer = layers.BertEmbedding(11, 4, max_length=4)
    with pytest.raises(ValueError, match="position table's 4 rows, got length 5 at offset 0"):
        layer(IDS, SEGMENTS)
    with pytest.raises(ValueError, match=r"must be in \[0, 11\), got 12"):
        layer(IDS[:, :3] + 2)
    with pytest.raises(ValueError, match=r"`segment_ids` must be in \[0, 2\), got 2"):
        layer(IDS[:, :3], SEGMENTS[:, :3] + 1)
