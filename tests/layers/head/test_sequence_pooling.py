"""SequencePooling against numpy, with rows of unequal length."""

import numpy as np
import pytest
from keras import ops

from keras_attn.layers import SequencePooling

B, T, D = 3, 5, 2
RNG = np.random.default_rng(0)
INPUTS = np.float32(
    RNG.normal(size=(B, T, D)) - 3
)  # negative, so that zero padding would win the maximum
MASK = np.arange(T)[None] < np.array([[5], [2], [0]])


def array(x):
    return ops.convert_to_numpy(x)


def numpy_pool(mode, inputs, lengths):
    if mode == "first":
        return inputs[:, 0]
    rows = zip(inputs, lengths, strict=True)
    pool = {"mean": np.mean, "max": np.max}[mode]
    return np.stack([pool(row[:n], axis=0) if n else np.zeros(D) for row, n in rows])


@pytest.mark.parametrize("mode", ["first", "mean", "max"])
def test_outputs_equal_numpy(mode):
    layer = SequencePooling(mode)
    np.testing.assert_allclose(
        array(layer(INPUTS, mask=MASK)), numpy_pool(mode, INPUTS, [5, 2, 0]), atol=1e-6
    )
    np.testing.assert_allclose(array(layer(INPUTS)), numpy_pool(mode, INPUTS, [5, 5, 5]), atol=1e-6)


@pytest.mark.parametrize("mode", ["first", "mean", "max"])
def test_extra_padding_does_not_change_the_output(mode):
    layer = SequencePooling(mode)
    longer = np.concatenate([INPUTS, 1e6 * np.ones((B, 2, D), "float32")], axis=1)
    mask = np.concatenate([MASK, np.zeros((B, 2), bool)], axis=1)
    np.testing.assert_array_equal(array(layer(longer, mask=mask)), array(layer(INPUTS, mask=MASK)))


def test_the_mean_of_a_long_row_is_exact_in_half_precision():
    """4096 ones: neither the sum nor the count fits into float16's integers."""
    inputs = np.ones((1, 4096, 1), "float16")
    assert array(SequencePooling("mean", dtype="float16")(inputs)).tolist() == [[1.0]]


def test_an_unknown_mode_raises():
    with pytest.raises(ValueError, match="`mode` must be one of first, mean, max, got 'sum'"):
        SequencePooling("sum")
