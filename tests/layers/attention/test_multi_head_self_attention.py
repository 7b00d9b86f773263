"""Cached calls, windows and packed rows against one full call."""

import itertools

import keras
import numpy as np
import pytest

from keras_attn import layers
from keras_attn.ops import cache as caches
from tests import oracles
from tests.backend import arrays, assert_dropped, computed, randomize, weights_of

B, T, D, N, K = 2, 7, 12, 6, 3
INPUTS = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")

POSITIONS = {
    "none": lambda: None,
    "rotary": lambda: layers.RotaryEmbedding(),
    "partial_rotary": lambda: layers.RotaryEmbedding(100.0, rotary_fraction=0.5, scaling=3.0),
    "alibi": lambda: layers.ALiBi(N),
    "t5": lambda: layers.RelativePositionBias(
        N, bidirectional=False, num_buckets=6, max_distance=9, initializer="normal"
    ),
}


# JAX compiles each of them; these three have a table, a bias and a rotation.
FAST = ("t5", (2, 5)), ("alibi", None), ("rotary", None)
CACHED = [
    pytest.param(*one, marks=() if one in FAST else pytest.mark.slow_on("jax"))
    for one in itertools.product(POSITIONS, (None, (2, 5)))
]


@pytest.mark.parametrize(("kind", "window"), CACHED)
def test_cached_calls_equal_the_full_call(kind, window):
    layer = layers.MultiHeadSelfAttention(
        N,
        key_dim=4,
        num_kv_heads=K,
        causal=True,
        window=window,
        position=POSITIONS[kind](),
        query_key_norm="rms",
        logits_soft_cap=2.0,
        use_sink=True,
    )
    layer.build(INPUTS.shape)
    expected = computed(layer, INPUTS)
    cache, found = caches.create(B, T + 3, K, 4), []
    for start, stop in ((0, 3), (3, 4), (4, 5), (5, 7)):
        outputs, cache = computed(layer, INPUTS[:, start:stop], cache=cache, cache_index=start)
        found.append(outputs)
    np.testing.assert_allclose(np.concatenate(found, 1), expected, rtol=1e-4, atol=1e-5)


def _normalized(kind, heads, weights, name):
    """Over the width of each head."""
    w = {part: weights.get(f"{name}_norm/{part}", 0) for part in ("scale", "gamma", "beta")}
    if kind == "layer":
        return oracles.layer_norm(heads, w["gamma"], w["beta"], 1e-3)
    return heads / np.sqrt((heads**2).mean(-1, keepdims=True) + 1e-3) * w["scale"]


@pytest.mark.parametrize("kernel", ["reference", "chunked"])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_query_key_norm_and_soft_cap_equal_numpy(kind, kernel):
    layer = layers.MultiHeadSelfAttention(
        N,
        num_kv_heads=K,
        query_key_norm=kind,
        norm_epsilon=1e-3,
        logits_soft_cap=0.7,
        use_sink=True,
        kernel=kernel,
    )
    layer.build(INPUTS.shape)
    randomize(layer)
    w = {name: weight.astype("float64") for name, weight in weights_of(layer).items()}
    q, k, v = (INPUTS @ w[f"{x}/kernel"] + w[f"{x}/bias"] for x in ("query", "key", "value"))
    q = _normalized(kind, q.reshape(B, T, N, -1), w, "query")
    k = _normalized(kind, k.reshape(B, T, K, -1), w, "key").repeat(N // K, axis=2)
    v = v.reshape(B, T, K, -1).repeat(N // K, axis=2)
    logits = np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(D // N)
    exponentials = np.exp(0.7 * np.tanh(logits / 0.7))
    total = exponentials.sum(-1, keepdims=True) + np.exp(w["sink"])[:, None, None]
    weights = exponentials / total
    context = np.einsum("bnts,bsnh->btnh", weights, v).reshape(B, T, -1)
    expected = context @ w["output/kernel"] + w["output/bias"]
    np.testing.assert_allclose(arrays(layer(INPUTS)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_packed_sequences_equal_separate_sequences(causal):
    layer = layers.MultiHeadSelfAttention(N, causal=causal)
    ids = np.repeat([[0, 1]], B, 0).repeat([3, 4], axis=1)
    whole = arrays(layer(INPUTS, sequence_ids=ids))
    parts = [arrays(layer(part)) for part in (INPUTS[:, :3], INPUTS[:, 3:])]
    np.testing.assert_allclose(whole, np.concatenate(parts, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [2, (4, 2)])
def test_a_window_is_a_band_mask_of_that_width(window, causal):
    layer = layers.MultiHeadSelfAttention(N, causal=causal, window=window)
    layer.build(INPUTS.shape)
    randomize(layer)
    outputs = layer(INPUTS)
    distance = np.arange(T)[:, None] - np.arange(T)
    before, after = (window, window) if window == 2 else window
    allowed = (distance < before) & (-distance < (1 if causal else after))
    expected, _ = oracles.attention(INPUTS, INPUTS, INPUTS, weights_of(layer), N, allowed)
    np.testing.assert_allclose(arrays(outputs), expected, rtol=1e-4, atol=1e-5)


def test_training_drops_attention_weights_and_scales_the_others():
    """With identity kernels and one-hot inputs, the output equals the attention weights."""
    length, rate = 31, 0.3
    layer = layers.MultiHeadSelfAttention(
        1, use_bias=False, dropout=rate, kernel_initializer="identity", seed=3
    )
    rows = np.eye(length, dtype="float32")[None]
    outputs, weights = layer(rows, return_attention_scores=True)
    np.testing.assert_allclose(arrays(outputs)[0], arrays(weights)[0, 0], rtol=1e-5)
    assert_dropped(layer(rows, training=True), outputs, rate)


def test_rotary_logits_depend_only_on_the_distance():
    layer = layers.MultiHeadSelfAttention(N, key_dim=4, position=layers.RotaryEmbedding())
    same = np.repeat(INPUTS[:, :1], T, axis=1)
    _, scores = layer(same, return_attention_scores=True)
    logits = np.log(arrays(scores))
    steps = logits[..., 1:, 1:] - logits[..., :-1, :-1]
    np.testing.assert_allclose(steps, np.broadcast_to(steps[..., :1], steps.shape), atol=1e-4)


def test_positions_are_those_of_the_rotary_embedding():
    """Rows padded on the left give what the same rows give without padding."""
    layer = layers.MultiHeadSelfAttention(N, causal=True, position=layers.RotaryEmbedding(50.0))
    expected = arrays(layer(INPUTS))
    padded = np.pad(INPUTS, ((0, 0), (3, 0), (0, 0)), constant_values=9.0)
    mask = np.arange(T + 3) >= np.array([[3]] * B)
    where = keras.ops.convert_to_tensor(np.maximum(np.arange(T + 3) - 3, 0) + 20)
    found = arrays(layer(padded, mask=mask, positions=where))
    np.testing.assert_allclose(found[:, 3:], expected, rtol=1e-4, atol=1e-5)
    # Other distances give something else, and a block and a cached step take them too.
    apart = arrays(layer(INPUTS, positions=keras.ops.arange(T) * 5))
    assert np.abs(apart - expected).max() > 1e-2
    cache, steps = caches.create(B, T, N, D // N), []
    for step in range(T):
        here = keras.ops.convert_to_tensor([5 * step])
        row = INPUTS[:, step : step + 1]
        outputs, cache = layer(row, cache=cache, cache_index=step, positions=here)
        steps.append(arrays(outputs))
    np.testing.assert_allclose(np.concatenate(steps, 1), apart, rtol=1e-4, atol=1e-5)
    block = layers.TransformerEncoderBlock(N, 5, position=layers.RotaryEmbedding(50.0))
    moved = arrays(block(INPUTS, positions=keras.ops.arange(T) + 8))
    np.testing.assert_allclose(moved, arrays(block(INPUTS)), rtol=1e-4, atol=1e-5)
    assert np.abs(arrays(block(INPUTS, positions=keras.ops.arange(T) * 5)) - moved).max() > 1e-3
    with pytest.raises(ValueError, match="`positions` needs a layer whose `position` rotates"):
        layers.MultiHeadSelfAttention(N)(INPUTS, positions=keras.ops.arange(T))


def test_a_cache_needs_a_causal_layer():
    layer = layers.MultiHeadSelfAttention(N)
    with pytest.raises(ValueError, match="`cache` needs a layer with `causal=True`, got causal=Fa"):
        layer(INPUTS, cache=caches.create(B, T, N, 2))
