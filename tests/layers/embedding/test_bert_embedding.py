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


def test_with_a_padding_id_only_other_tokens_are_counted():
    layer = layers.BertEmbedding(11, 4, max_length=5, padding_id=1)
    layer.build(IDS.shape)
    randomize(layer)
    weights = weights_of(layer)
    assert weights["position/table"].shape == (7, 4)  # with rows 0, never read, and 1, of padding
    ids = np.array([[1, 1, 5, 6, 7], [5, 1, 6, 7, 1]], "int32")
    positions = np.array([[1, 1, 2, 3, 4], [2, 1, 3, 4, 1]])
    total = weights["token/embeddings"][ids] + weights["segment/embeddings"][0]
    total = (total + weights["position/table"][positions]).astype("float64")
    expected = oracles.layer_norm(total, weights["norm/gamma"], weights["norm/beta"], 1e-12)
    np.testing.assert_allclose(arrays(layer(ids)), expected, rtol=1e-4, atol=1e-5)

    row = np.concatenate([ids[:, 1:], ids[::-1, 2:]], 1)  # two sequences in each
    packed = np.tile(np.array([0, 1, 2, 3, 0, 1, 2], "int32"), (2, 1))
    positions = np.array([[1, 2, 3, 4, 2, 3, 1], [1, 2, 3, 1, 2, 3, 4]])
    total = weights["token/embeddings"][row] + weights["segment/embeddings"][0]
    total = (total + weights["position/table"][positions]).astype("float64")
    expected = oracles.layer_norm(total, weights["norm/gamma"], weights["norm/beta"], 1e-12)
    np.testing.assert_allclose(arrays(layer(row, positions=packed)), expected, rtol=1e-4, atol=1e-5)


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
    with pytest.raises(ValueError, match="must not be longer than `max_length` 4, got 5"):
        layers.BertEmbedding(11, 4, max_length=4, padding_id=1)(IDS)
    for padding_id in (-1, 11, True, "0"):
        with pytest.raises(ValueError, match=r"`padding_id` must be an integer in \[0, 11"):
            layers.BertEmbedding(11, 4, padding_id=padding_id)
    for options in ({"max_length": 0}, {"position": layers.SinusoidalPositionEncoding()}):
        with pytest.raises(ValueError, match="`padding_id` must be None without a table of"):
            layers.BertEmbedding(11, 4, padding_id=1, **options)
