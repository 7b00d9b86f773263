"""The dense product against numpy."""

import keras
import numpy as np
import pytest

from keras_attn import ops
from tests import oracles
from tests.backend import arrays, tensors

RNG = np.random.default_rng(0)
KERNEL, BIAS = (RNG.normal(size=s).astype("float32") for s in ((7, 11), (11,)))


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 5, 7), (2, 3, 5, 7)], ids=str)
def test_dense_equals_the_product_over_the_last_axis(shape):
    inputs = RNG.normal(size=shape).astype("float32")
    for bias, activation in ((None, None), (BIAS, None), (BIAS, keras.ops.relu)):
        found = ops.dense(*tensors([inputs, KERNEL]), bias, activation)
        expected = inputs.astype("float64") @ KERNEL + (0 if bias is None else bias)
        expected = expected if activation is None else np.maximum(expected, 0)
        assert found.shape == expected.shape
        np.testing.assert_allclose(arrays(found), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.backends("jax", "torch", reason="TensorFlow's fused kernel rounds in between")
@pytest.mark.parametrize(("dtype", "rounding"), [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_gelu_of_16_bits_is_rounded_once(dtype, rounding):
    """The logits are rounded before it, the outputs after it, and nothing between."""
    inputs = keras.ops.cast(keras.ops.linspace(-6.0, 6.0, 20_001)[:, None], dtype)
    found = ops.dense(inputs, keras.ops.ones((1, 1), dtype), activation=keras.activations.gelu)
    expected = oracles.gelu(np.float64(arrays(keras.ops.cast(inputs, "float32"))))
    found = np.float64(arrays(keras.ops.cast(found, "float32")))
    np.testing.assert_allclose(found, expected, rtol=rounding, atol=5e-7)
