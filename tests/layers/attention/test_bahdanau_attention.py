"""BahdanauAttention against float64 numpy."""

import numpy as np
import pytest
from keras import ops

from keras_attn.layers import BahdanauAttention

B, T, S, DQ, DM, U = 2, 3, 5, 7, 11, 13
RNG = np.random.default_rng(0)
QUERY, MEMORY = RNG.normal(size=(B, T, DQ)), RNG.normal(size=(B, S, DM))
QUERY_MASK = np.array([[1, 1, 0], [1, 1, 1]], bool)
MEMORY_MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)


def tensor(x, dtype="float32"):
    return ops.convert_to_tensor(x, dtype)


def make():
    layer = BahdanauAttention(U)
    layer.build((B, T, DQ), (B, S, DM))
    layer.bias.assign(RNG.normal(size=U))
    return layer


def expected(layer, memory_mask, query_mask):
    w1, w2, v, b = (
        np.float64(ops.convert_to_numpy(w))
        for w in (layer.query_kernel, layer.key_projection.kernel, layer.scale, layer.bias)
    )
    weights = np.zeros((B, T, S))
    for i in range(B):
        for t in range(T):
            for s in range(S):
                logit = v @ np.tanh(w1.T @ QUERY[i, t] + w2.T @ MEMORY[i, s] + b)
                weights[i, t, s] = np.exp(logit) * memory_mask[i, s] * query_mask[i, t]
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-30)
    return np.einsum("bts,bsd->btd", weights, MEMORY), weights


def test_outputs_follow_the_equations_of_the_paper():
    layer = make()
    context, weights = layer(
        tensor(QUERY),
        tensor(MEMORY),
        query_mask=tensor(QUERY_MASK, "bool"),
        memory_mask=tensor(MEMORY_MASK, "bool"),
        return_attention_scores=True,
    )
    want_context, want_weights = expected(layer, MEMORY_MASK, QUERY_MASK)
    np.testing.assert_allclose(ops.convert_to_numpy(weights), want_weights, atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(context), want_context, atol=1e-5)
    assert not ops.convert_to_numpy(context)[0, 2].any()


def test_precomputed_keys_do_not_change_the_output():
    layer, query, memory = make(), tensor(QUERY), tensor(MEMORY)
    projected = layer(query, memory, keys=layer.project_memory(memory))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(projected), ops.convert_to_numpy(layer(query, memory))
    )


@pytest.mark.parametrize("units", [0, -3])
def test_units_must_be_positive(units):
    with pytest.raises(ValueError, match=f"`units` must be a positive integer, got {units}"):
        BahdanauAttention(units)


def test_inputs_must_have_rank_3():
    with pytest.raises(ValueError, match=r"`memory` must have shape \[batch, length, width\], got"):
        BahdanauAttention(U)(tensor(QUERY), tensor(MEMORY[0]))
