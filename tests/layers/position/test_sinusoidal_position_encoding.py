"""SinusoidalPositionEncoding; the numbers of the table are in tests/ops."""

import numpy as np
import pytest

from keras_attn import layers
from keras_attn.ops.positions import sinusoids
from tests.backend import arrays, tensors

INPUTS = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")


def test_the_table_is_added_or_concatenated():
    table = arrays(sinusoids(tensors(np.arange(3, 8)), 6))
    added = layers.SinusoidalPositionEncoding()(INPUTS, offset=3)
    np.testing.assert_allclose(arrays(added), INPUTS + table, atol=1e-6)
    joined = layers.SinusoidalPositionEncoding(combination="concatenate", dim=4)(INPUTS)
    expected = arrays(sinusoids(tensors(np.arange(5)), 4))
    np.testing.assert_allclose(arrays(joined)[1, :, 6:], expected, atol=1e-6)
    np.testing.assert_allclose(arrays(joined)[..., :6], INPUTS)


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_positions_and_offset_may_be_integers_of_every_type(dtype):
    layer, places = layers.SinusoidalPositionEncoding(), np.full((2, 5), 100, dtype)
    outputs = arrays(layer(INPUTS, positions=places, offset=np.array(170, dtype)))
    angles = 270 / 10_000.0 ** (np.array([0, 2, 4]) / 6)
    expected = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(-1)
    np.testing.assert_allclose(outputs - INPUTS, np.broadcast_to(expected, (2, 5, 6)), atol=1e-5)


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match="`combination` must be one of add, concatenate, got 'x'"):
        layers.SinusoidalPositionEncoding(combination="x")
    with pytest.raises(ValueError, match="`dim` must be a positive even number, got 5"):
        layers.SinusoidalPositionEncoding()(INPUTS[..., :5])
