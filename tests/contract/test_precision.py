"""Half precision is finite with any mask and near the float32 numbers; float64 is exact."""

import keras
import numpy as np
import pytest
from keras import tree

from keras_attn import layers
from tests import oracles
from tests.backend import arrays, layer_gradients
from tests.cases import CALLED, LEARNING, built

# The others take the same ways: one narrow exponent and one narrow fraction, one of them mixed.
POLICIES = (
    "float16",
    "mixed_bfloat16",
    pytest.param("bfloat16", marks=pytest.mark.slow),
    pytest.param("mixed_float16", marks=pytest.mark.slow),
)


def in_policy(case, policy):
    weights = built(case).get_weights()
    keras.config.set_dtype_policy(policy)  # of the layers inside the arguments too
    layer = case.make()
    layer(**case.values())
    layer.set_weights(weights)
    return layer


def with_empty_rows(case):
    values = case.values()
    for mask in case.hides:
        values[mask][0] = False
    return values


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("case", CALLED, ids=str)
def test_half_precision_is_finite_and_near(case, policy):
    reference = built(case)
    layer = in_policy(case, policy)
    for values in (case.values(), with_empty_rows(case)):
        expected = tree.flatten(arrays(reference(**values)))
        for output, want in zip(tree.flatten(arrays(layer(**values))), expected, strict=True):
            assert np.isfinite(output).all()
            assert np.linalg.norm(output - want) <= 0.05 * np.linalg.norm(want) + 1e-3


@pytest.mark.parametrize("policy", ("float16", "mixed_bfloat16"))
@pytest.mark.parametrize("case", LEARNING, ids=str)
def test_half_precision_gradients_are_finite(case, policy):
    layer = in_policy(case, policy)
    found = layer_gradients(layer, with_empty_rows(case), **case.training)
    for name, gradient in found.items():
        assert gradient is not None and np.isfinite(gradient).all(), name


def in_float64(case):
    values = keras.tree.map_structure(
        lambda value: value.astype("float64") if value.dtype == "float32" else value, case.values()
    )
    keras.config.set_dtype_policy("float64")
    layer = case.make()
    layer(**values)
    layer.set_weights(built(case).get_weights())
    return layer, values


@pytest.mark.backends("tensorflow", "torch", reason="JAX has no float64 unless a flag is set")
@pytest.mark.parametrize("case", CALLED, ids=str)
def test_float64_gives_the_numbers_of_float32(case):
    expected = tree.flatten(arrays(built(case)(**case.values())))
    layer, values = in_float64(case)
    outputs = tree.flatten(layer(**values))
    symbols = tree.flatten(layer(**keras.tree.map_structure(_symbol, case.inputs)))
    for output, want, symbol in zip(outputs, expected, symbols, strict=True):
        assert keras.backend.standardize_dtype(output.dtype) == symbol.dtype
        np.testing.assert_allclose(arrays(output), want, rtol=1e-4, atol=1e-5)


def _symbol(spec):
    dtype = spec.dtype.replace("float32", "float64")
    return keras.Input(batch_shape=spec.dynamic_shape, dtype=dtype)


@pytest.mark.backends("tensorflow", "torch", reason="JAX has no float64 unless a flag is set")
@pytest.mark.parametrize("locality", ["local_m", "local_p"])
def test_local_attention_is_exact_in_float64(locality):
    case = next(case for case in CALLED if str(case) == "LuongAttention-plain")
    rng = np.random.default_rng(0)
    query, memory = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 7, 4))
    layer = case.layer(locality=locality, window=2, combine="concatenate", dtype="float64")
    context = arrays(layer(query, memory))[..., :4]
    kernel = arrays(layer.kernel.value)
    logits = query @ kernel @ memory.swapaxes(1, 2)
    center = np.broadcast_to(np.arange(5.0), (2, 5))
    if locality == "local_p":
        hidden = np.tanh(query @ arrays(layer.center_kernel.value))
        center = 7 / (1 + np.exp(-(hidden @ arrays(layer.center_scale.value))))
    distance = np.arange(7) - center[..., None]
    weights = np.where(np.abs(distance) <= 2, np.exp(logits - logits.max(-1, keepdims=True)), 0)
    weights /= weights.sum(-1, keepdims=True)
    if locality == "local_p":
        weights = weights * np.exp(-(distance**2) / 2)
    np.testing.assert_allclose(context, weights @ memory, rtol=1e-12, atol=1e-12)


@pytest.mark.backends("tensorflow", "torch", reason="JAX has no float64 unless a flag is set")
def test_pooling_and_mixing_are_exact_in_float64():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 2, 5, 3))
    pooled = layers.SequencePooling("mean", dtype="float64")(one)
    np.testing.assert_allclose(arrays(pooled), one.mean(axis=1), rtol=1e-13)
    mixed = layers.ScalarMix(normalize=True, dtype="float64")([one, other])
    normal = [oracles.layer_norm(x, 1, 0, 1e-12) for x in (one, other)]
    np.testing.assert_allclose(arrays(mixed), (normal[0] + normal[1]) / 2, rtol=1e-12, atol=1e-12)
