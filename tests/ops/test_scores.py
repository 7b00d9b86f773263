"""Scores against the equations of the papers in float64 numpy, pair by pair."""

import numpy as np
import pytest
from keras import ops

from keras_attn.ops import scores

B, T, S, DQ, DK, U = 2, 3, 5, 7, 11, 13
RNG = np.random.default_rng(0)
QUERY, KEY, EVEN_KEY = (RNG.normal(size=s) for s in ((B, T, DQ), (B, S, DK), (B, S, DQ)))
W = RNG.normal(size=(DQ, DK))
W1, W2, V, BIAS = (RNG.normal(size=s) for s in ((DQ, U), (DK, U), (U,), (U,)))

ORACLES = {
    "dot": (EVEN_KEY, {}, lambda q, k: q @ k),
    "scaled_dot": (EVEN_KEY, {}, lambda q, k: q @ k / np.sqrt(DQ)),
    "cosine": (EVEN_KEY, {}, lambda q, k: q @ k / np.linalg.norm(q) / np.linalg.norm(k)),
    "general": (KEY, {"kernel": W}, lambda q, k: q @ W @ k),
    "additive": (
        KEY,
        {"query_kernel": W1, "key_kernel": W2, "scale": V, "bias": BIAS},
        lambda q, k: V @ np.tanh(W1.T @ q + W2.T @ k + BIAS),
    ),
    "concat": (
        KEY,
        {"kernel": np.concatenate([W1, W2]), "scale": V},
        lambda q, k: V @ np.tanh(np.concatenate([W1, W2]).T @ np.concatenate([q, k])),
    ),
}


def call(name, query, key, weights):
    tensors = {n: ops.convert_to_tensor(w, "float32") for n, w in weights.items()}
    query, key = (ops.convert_to_tensor(x, "float32") for x in (query, key))
    return ops.convert_to_numpy(scores.get(name)(query, key, **tensors))


@pytest.mark.parametrize("name", ORACLES)
def test_every_score_equals_its_paper(name):
    key, weights, pair = ORACLES[name]
    expected = [
        [[pair(QUERY[b, t], key[b, s]) for s in range(S)] for t in range(T)] for b in (0, 1)
    ]
    np.testing.assert_allclose(call(name, QUERY, key, weights), expected, rtol=1e-4, atol=1e-5)


def test_the_location_score_depends_only_on_the_query():
    kernel = RNG.normal(size=(DQ, 17))
    logits = call("location", QUERY, KEY, {"kernel": kernel})
    np.testing.assert_allclose(logits, (QUERY @ kernel)[:, :, :S], rtol=1e-4, atol=1e-5)


def test_the_additive_score_accepts_projected_keys():
    weights = {"query_kernel": W1, "scale": V, "bias": BIAS}
    projected = ops.convert_to_tensor(KEY @ W2, "float32")
    tensors = {n: ops.convert_to_tensor(w, "float32") for n, w in weights.items()}
    query = ops.convert_to_tensor(QUERY, "float32")
    logits = scores.additive(query, projected, key_kernel=None, **tensors)
    expected = call("additive", QUERY, KEY, {**weights, "key_kernel": W2})
    np.testing.assert_allclose(ops.convert_to_numpy(logits), expected, rtol=1e-4, atol=1e-5)


def test_the_cosine_score_of_a_zero_vector_is_zero():
    logits = call("cosine", np.zeros((1, 1, 3)), np.ones((1, 2, 3)), {})
    np.testing.assert_array_equal(logits, np.zeros((1, 1, 2)))


@pytest.mark.parametrize("name", [*ORACLES, "location"])
def test_weight_shapes_match_the_arguments_of_each_score(name):
    key = ORACLES[name][0] if name in ORACLES else KEY
    shapes = scores.weight_shapes(name, DQ, key.shape[-1], units=U, max_length=S)
    weights = {n: RNG.normal(size=shape) for n, shape in shapes.items()}
    assert call(name, QUERY, key, weights).shape == (B, T, S)


def test_an_unknown_name_raises_with_the_known_names():
    known = "dot, scaled_dot, cosine, general, additive, concat, location"
    with pytest.raises(ValueError, match=f"`score` must be one of {known}, got 'dotty'"):
        scores.get("dotty")


def test_unequal_widths_raise_for_a_dot_product():
    with pytest.raises(ValueError, match="must have the same width for a dot .*, got 7 and 11"):
        call("dot", QUERY, KEY, {})


def test_a_key_longer_than_max_length_raises_for_the_location_score():
    with pytest.raises(ValueError, match="`key` must be at most 4 long.* got 5"):
        call("location", QUERY, KEY, {"kernel": np.ones((DQ, 4))})


def test_the_location_score_without_max_length_raises():
    with pytest.raises(ValueError, match='`max_length` must be given .*"location", got None'):
        scores.weight_shapes("location", DQ, DK)
