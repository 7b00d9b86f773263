"""LearnedPositionEmbedding against its own table."""

import numpy as np
import pytest

from keras_attn import layers
from tests.backend import arrays

INPUTS = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")


def test_each_position_adds_its_row_of_the_table():
    layer = layers.LearnedPositionEmbedding(11)
    outputs, table = arrays(layer(INPUTS)), arrays(layer.table.value)
    np.testing.assert_allclose(outputs, INPUTS + table[:5], rtol=1e-6)
    np.testing.assert_allclose(arrays(layer(INPUTS, offset=6)), INPUTS + table[6:], rtol=1e-6)
    places = np.array([[0, 1, 0, 1, 2], [4, 3, 2, 1, 0]])
    np.testing.assert_allclose(
        arrays(layer(INPUTS, positions=places)), INPUTS + table[places], rtol=1e-6
    )


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_integers_of_every_type_are_positions(dtype):
    layer = layers.LearnedPositionEmbedding(300)
    places = np.full((2, 5), 100, dtype)
    outputs = arrays(layer(INPUTS, positions=places, offset=np.array(170, dtype)))
    table = arrays(layer.table.value)
    np.testing.assert_allclose(outputs, INPUTS + table[270], rtol=1e-6)
    outputs = arrays(layer(INPUTS, positions=places.tolist(), offset=170))
    np.testing.assert_allclose(outputs, INPUTS + table[270], rtol=1e-6)
    with pytest.raises(ValueError, match="`positions` must hold integers, got .*float32"):
        layer(INPUTS, positions=places.astype("float32"))


def test_rows_are_concatenated_after_the_inputs():
    layer = layers.LearnedPositionEmbedding(11, combination="concatenate", dim=3)
    outputs, table = arrays(layer(INPUTS)), arrays(layer.table.value)
    np.testing.assert_allclose(outputs[..., :4], INPUTS)
    np.testing.assert_allclose(outputs[1, :, 4:], table[:5])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_length": 0}, "`max_length` must be a positive integer, got 0"),
        ({"combination": "times"}, "`combination` must be one of add, concatenate, got 'times'"),
        ({"dim": 3}, "`dim` must be None where positions are added, got 3"),
        ({"max_length": 4}, "`inputs` must not be longer than the position table's 4 rows.*5 at"),
    ],
)
def test_invalid_arguments_raise(options, text):
    with pytest.raises(ValueError, match=text):
        layers.LearnedPositionEmbedding(**{"max_length": 11, **options})(INPUTS)
