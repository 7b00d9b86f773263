"""SequencePooling against numpy, with rows of unequal length."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_attn.layers import SequencePooling
from keras_attn.layers.head.sequence_pooling import MODES
from tests.backend import arrays, layer_gradients

B, T, D = 3, 5, 2
RNG = np.random.default_rng(0)
INPUTS = np.float32(
    RNG.normal(size=(B, T, D)) - 3
)  # negative, so that zero padding would win the maximum
MASK = np.arange(T)[None] < np.array([[5], [2], [0]])
MASKS = {
    "right": MASK,
    "left": MASK[:, ::-1],
    "holes": np.array([[0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [0, 0, 1, 0, 0]], bool),
    "of one row": MASK[1:2],
    "of whole rows": np.array([[True], [False], [True]]),
}


def array(x):
    return ops.convert_to_numpy(x)


def numpy_pool(mode, inputs, mask):
    pool = {
        "first": lambda rows: rows[0],
        "last": lambda rows: rows[-1],
        "mean": lambda rows: rows.mean(0),
        "max": lambda rows: rows.max(0),
    }[mode]
    mask = np.broadcast_to(mask, inputs.shape[:2])
    rows = [row[kept] for row, kept in zip(inputs.astype("float64"), mask, strict=True)]
    return np.stack([pool(row) if len(row) else np.zeros(D) for row in rows])


@pytest.mark.parametrize("mode", MODES)
def test_outputs_equal_numpy(mode):
    layer, unit = SequencePooling(mode), SequencePooling(mode, normalize=True)
    for mask in (None, *MASKS.values()):
        expected = numpy_pool(mode, INPUTS, np.ones((B, T), bool) if mask is None else mask)
        np.testing.assert_allclose(array(layer(INPUTS, mask=mask)), expected, atol=1e-6)
        lengths = np.linalg.norm(expected, axis=1, keepdims=True)
        expected = np.divide(expected, lengths, out=np.zeros((B, D)), where=lengths > 0)
        np.testing.assert_allclose(array(unit(INPUTS, mask=mask)), expected, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_length_of_zero_gives_zeros(mode):
    for mask in (None, np.ones((B, 0), bool)):
        np.testing.assert_array_equal(
            array(SequencePooling(mode)(INPUTS[:, :0], mask=mask)), np.zeros((B, D))
        )


@pytest.mark.backends("tensorflow", "torch", reason="JAX has no float64 unless a flag is set")
def test_the_norm_is_exact_in_float64():
    keras.config.set_floatx("float64")  # or numpy's float64 becomes float32 on torch
    expected = INPUTS.astype("float64").mean(1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    layer = SequencePooling("mean", normalize=True, dtype="float64")
    np.testing.assert_allclose(array(layer(INPUTS.astype("float64"))), expected, rtol=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_extra_padding_does_not_change_the_output(mode):
    layer = SequencePooling(mode)
    padding, no = 1e6 * np.ones((B, 2, D), "float32"), np.zeros((B, 2), bool)
    expected = array(layer(INPUTS, mask=MASK))
    for axis_order in (1, -1):
        longer = np.concatenate([INPUTS, padding][::axis_order], axis=1)
        mask = np.concatenate([MASK, no][::axis_order], axis=1)
        found = array(layer(longer, mask=mask))
        np.testing.assert_allclose(found, expected, rtol=1e-6)  # torch sums in another order


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_masked_positions_may_hold_nan_and_get_no_gradient(mode, normalize):
    """The last row has no other positions: its zeros have no direction."""
    layer = SequencePooling(mode, normalize)
    inputs = {"inputs": np.where(MASK[..., None], INPUTS, np.float32(np.nan)), "mask": MASK}
    assert array(layer(**inputs))[2].tolist() == [0.0, 0.0]
    gradient = layer_gradients(layer, inputs)["input:inputs"]
    assert np.isfinite(gradient).all() and gradient[MASK].any() and not gradient[~MASK].any()


def test_the_mean_of_a_long_row_is_exact_in_half_precision():
    """4096 ones: neither the sum nor the count fits into float16's integers."""
    inputs = np.ones((1, 4096, 1), "float16")
    assert array(SequencePooling("mean", dtype="float16")(inputs)).tolist() == [[1.0]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_norms_are_exact_in_half_precision(dtype):
    """The squares of 300 and 400 are beyond float16, those of 3e-4 and 4e-4 below it."""
    layer = SequencePooling("first", normalize=True, dtype=dtype)
    inputs = np.array([[[300.0, 400.0]], [[3e-4, 4e-4]], [[0.0, 0.0]]])
    np.testing.assert_allclose(arrays(layer(inputs)), [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=5e-3)


def test_an_unknown_mode_raises():
    with pytest.raises(ValueError, match="`mode` must be one of first, last, mean, max, got 'sum'"):
        SequencePooling("sum")
