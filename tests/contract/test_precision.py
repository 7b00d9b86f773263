"""Half precision is finite with any mask and close to float32; float64 is exact."""

import keras
import numpy as np
import pytest
from keras import tree

from keras_attn import layers, ops, training
from keras_attn.ops import scores, selection
from tests import oracles
from tests.backend import arrays, computed, gradients, layer_gradients
from tests.cases import CALLED, LEARNING, built, few_but_on_torch

# The slow ones take the same code paths: one narrow exponent, one narrow fraction, one mixed.
# JAX compiles for minutes here: its fast run has one policy for outputs and one for gradients.
_SLOW = pytest.mark.slow_on("jax")
POLICIES = (
    pytest.param("float16", marks=_SLOW),
    "mixed_bfloat16",
    pytest.param("bfloat16", marks=pytest.mark.slow),
    pytest.param("mixed_float16", marks=pytest.mark.slow),
)


def in_policy(case, policy):
    weights = built(case).get_weights()
    keras.config.set_dtype_policy(policy)  # of the layers inside the arguments too
    layer = case.build(case.make())
    layer.set_weights(weights)
    return layer


def with_empty_rows(case):
    values = case.values()
    for mask in case.hides:
        values[mask][0] = False
    return values


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("case", few_but_on_torch(CALLED))
def test_half_precision_outputs_are_finite_and_close_to_float32(case, policy):
    reference = built(case)
    layer = in_policy(case, policy)
    for values in (case.values(), with_empty_rows(case)):
        expected = tree.flatten(computed(reference, **values))
        for output, want in zip(tree.flatten(computed(layer, **values)), expected, strict=True):
            assert np.isfinite(output).all()
            assert np.linalg.norm(output - want) <= 0.05 * np.linalg.norm(want) + 1e-3


@pytest.mark.parametrize("policy", ("float16", pytest.param("mixed_bfloat16", marks=_SLOW)))
@pytest.mark.parametrize("case", few_but_on_torch(LEARNING))
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
def test_float64_outputs_agree_with_float32(case):
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


def exact(found, expected):
    assert keras.backend.standardize_dtype(found.dtype) == "float64"
    np.testing.assert_allclose(arrays(found), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.backends("tensorflow", "torch", reason="JAX has no float64 unless a flag is set")
def test_positions_are_exact_in_float64():
    rng = np.random.default_rng(0)
    inputs, heads = rng.normal(size=(2, 5, 6)), rng.normal(size=(2, 5, 3, 8))
    places = 1e4 + np.arange(5.0)  # where float32 keeps four digits of an angle
    angles = places[:, None] * 1e4 ** (-np.arange(0, 6, 2) / 6)
    expected = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(5, 6)
    encode = layers.SinusoidalPositionEncoding(dtype="float64")
    exact(encode(inputs, offset=10_000), inputs + expected)

    angles = (places / 1.5)[:, None, None] * 50.0 ** (-np.arange(0, 4, 2) / 4)
    one, two, rest = heads[..., :2], heads[..., 2:4], heads[..., 4:]
    cos, sin = np.cos(angles), np.sin(angles)
    expected = np.concatenate([one * cos - two * sin, two * cos + one * sin, rest], axis=-1)
    rotary = layers.RotaryEmbedding(50.0, rotary_fraction=0.5, scaling=1.5, dtype="float64")
    exact(rotary(heads, offset=10_000), expected)


@pytest.mark.backends("tensorflow", "torch", reason="JAX has no float64 unless a flag is set")
@pytest.mark.parametrize("kernel", ["reference", "chunked"])
def test_position_biases_are_exact_in_float64(kernel):
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 5, 3, 4)), rng.normal(size=(2, 7, 3, 4))
    relative = layers.RelativePositionBias(3, num_buckets=8, max_distance=9, dtype="float64")
    relative.build()
    table = rng.normal(size=(8, 3))
    relative.table.assign(table)
    distance = np.arange(7) - np.arange(5)[:, None]
    # Half of four buckets a direction are exact; log(d / 2) / log(9 / 2) * 2 more from 2 on.
    size = np.array([0, 1, 2, 2, 2, 3, 3])[abs(distance)]
    slopes = 2.0 ** -np.array([4, 8, 2])
    for layer, bias in (
        (relative, table[size + 4 * (distance > 0)].transpose(2, 0, 1)),
        (layers.ALiBi(3, dtype="float64"), -slopes[:, None, None] * abs(distance)),
    ):
        exact(layer(np.arange(5), np.arange(7)), bias)
        logits = np.einsum("btnh,bsnh->bnts", query, key) / 2 + bias
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        found = ops.attention(query, key, key, bias=layer.bias(), kernel=kernel)
        exact(found, np.einsum("bnts,bsnh->btnh", weights, key))


@pytest.mark.backends("tensorflow", "torch", reason="JAX has no float64 unless a flag is set")
def test_cross_entropy_is_exact_in_float64():
    rng = np.random.default_rng(0)
    hidden, matrix, bias = rng.normal(size=(7, 5)), rng.normal(size=(11, 5)), rng.normal(size=11)
    labels, weights = rng.integers(0, 11, 7), rng.uniform(size=7)
    logits = hidden @ matrix.T + bias
    top = logits.max(-1, keepdims=True)
    normalizer = (np.log(np.exp(logits - top).sum(-1, keepdims=True)) + top)[:, 0]
    own, even = logits[np.arange(7), labels], logits.mean(-1)
    losses = normalizer - 0.9 * own - 0.1 * even
    given = (hidden, matrix, bias)

    def loss(*tensors):
        options = {"label_smoothing": 0.1, "chunk_size": 3}
        return ops.linear_cross_entropy(*tensors, labels, weights, **options)

    exact(loss(*given), weights * losses)
    shares = np.exp(logits - normalizer[:, None]) - 0.1 / 11
    shares[np.arange(7), labels] -= 0.9
    shares *= weights[:, None]
    expected = (shares @ matrix, shares.T @ hidden, shares.sum(0))
    for found, want in zip(
        gradients(lambda *x: keras.ops.sum(loss(*x)), *given), expected, strict=True
    ):
        exact(found, want)

    smoothed = training.SmoothedCrossEntropy(0.1, reduction=None, dtype="float64")
    exact(smoothed(labels, logits), losses)


@pytest.mark.backends("tensorflow", reason="on torch the means of Keras are float32")
def test_means_over_positions_are_exact_in_float64():
    rng = np.random.default_rng(0)
    logits, labels, weights = rng.normal(size=(7, 11)), rng.integers(0, 11, 7), rng.uniform(size=7)
    entropies = np.log(np.exp(logits).sum(-1)) - logits[np.arange(7), labels]
    mean = (entropies * weights).sum() / weights.sum()
    exact(training.SmoothedCrossEntropy(0.0, dtype="float64")(labels, logits, weights), mean)
    perplexity = training.Perplexity(dtype="float64", from_logits=True)
    perplexity.update_state(labels, logits, weights)
    exact(perplexity.result(), np.exp(mean))


@pytest.mark.backends("tensorflow", "torch", reason="JAX has no float64 unless a flag is set")
def test_cosine_scores_and_monotonic_attention_are_exact_in_float64():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 7, 3))
    one, other = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, key))
    given = map(keras.ops.convert_to_tensor, (query, key))
    exact(scores.cosine(*given), one @ other.swapaxes(1, 2))

    logits = rng.normal(size=(2, 5, 7))
    stop, state = 1 / (1 + np.exp(-logits)), np.eye(7)[[0, 0]]
    expected = []
    for t in range(5):  # key by key, as in the paper's equation
        weights, reached = np.zeros((2, 7)), np.zeros(2)
        for s in range(7):
            reached = reached + state[:, s]
            weights[:, s] = stop[:, t, s] * reached
            reached = (1 - stop[:, t, s]) * reached
        expected.append(weights)
        state = weights
    logits = keras.ops.convert_to_tensor(logits)
    exact(selection.monotonic(logits, mode="recursive"), np.stack(expected, axis=1))
