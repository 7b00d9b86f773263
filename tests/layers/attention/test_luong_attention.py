"""LuongAttention against float64 numpy: scores, localities, combinations."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_attn.layers import LuongAttention

B, T, S, DQ, DM = 2, 3, 7, 5, 11
RNG = np.random.default_rng(0)
QUERY, MEMORY = RNG.normal(size=(B, T, DQ)), RNG.normal(size=(B, S, DM))
MEMORY_MASK = np.array([[1, 1, 1, 1, 0, 0, 0], [1] * 7], bool)


def tensor(x, dtype="float32"):
    return ops.convert_to_tensor(x, dtype)


def array(x):
    return np.float64(ops.convert_to_numpy(x))


def call(layer, memory=MEMORY, mask=MEMORY_MASK, **kwargs):
    outputs = layer(
        tensor(QUERY),
        tensor(memory),
        memory_mask=tensor(mask, "bool"),
        return_attention_scores=True,
        **kwargs,
    )
    return [array(x) for x in outputs]


def softmax(logits, mask):
    weights = np.exp(logits) * mask
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30)


def general(layer):
    return np.einsum("btq,qd,bsd->bts", QUERY, array(layer.kernel), MEMORY)


def test_global_general_attention_equals_numpy():
    layer = LuongAttention(units=13)
    outputs, weights = call(layer)
    want = softmax(general(layer), MEMORY_MASK[:, None])
    np.testing.assert_allclose(weights, want, atol=1e-5)
    context = np.einsum("bts,bsd->btd", want, MEMORY)
    joined = np.concatenate([context, QUERY], -1)
    np.testing.assert_allclose(outputs, np.tanh(joined @ array(layer.output_kernel)), atol=1e-5)


def test_local_m_is_centered_at_the_query_position():
    layer = LuongAttention(locality="local_m", window=1)
    for offset in (0, 2):
        _, weights = call(layer, query_offset=offset)
        places = np.arange(S)[None, None]
        near = np.abs(places - (np.arange(T) + offset)[None, :, None]) <= 1
        want = softmax(general(layer), MEMORY_MASK[:, None] & near)
        np.testing.assert_allclose(weights, want, atol=1e-5)


def test_local_p_is_centered_within_the_unpadded_length():
    layer = LuongAttention(locality="local_p", window=2)
    _, weights = call(layer)
    hidden = np.tanh(QUERY @ array(layer.center_kernel))
    length = MEMORY_MASK.sum(-1)[:, None]
    center = length / (1 + np.exp(-hidden @ array(layer.center_scale)))
    distance = np.arange(S) - center[..., None]
    inside = MEMORY_MASK[:, None] & (np.abs(distance) <= 2)
    want = softmax(general(layer), inside) * np.exp(-(distance**2) / (2 * 1.0**2))
    np.testing.assert_allclose(weights, want, atol=1e-5)


def test_local_p_with_a_mask_of_the_queries_alone_sees_the_whole_memory():
    layer, shown = (
        LuongAttention(locality="local_p", window=2),
        np.array([[1, 0, 1], [1, 1, 0]], bool),
    )
    every = np.ones((B, S), bool)
    outputs = [
        layer(tensor(QUERY), tensor(MEMORY), query_mask=shown, memory_mask=mask)
        for mask in (every, None)
    ]
    np.testing.assert_allclose(array(outputs[1]), array(outputs[0]), atol=1e-6)


@pytest.mark.parametrize("locality", ["global", "local_m", "local_p"])
def test_extra_padding_does_not_change_the_output(locality):
    layer = LuongAttention(locality=locality, window=2)
    outputs, weights = call(layer)
    longer = np.concatenate([MEMORY, RNG.normal(size=(B, 4, DM))], axis=1)
    mask = np.concatenate([MEMORY_MASK, np.zeros((B, 4), bool)], axis=1)
    padded_outputs, padded_weights = call(layer, longer, mask)
    np.testing.assert_allclose(padded_outputs, outputs, atol=1e-6)
    np.testing.assert_allclose(padded_weights[:, :, :S], weights, atol=1e-6)


@pytest.mark.parametrize("score", ["dot", "scaled_dot", "cosine", "general", "additive", "concat"])
def test_every_score_gives_normalized_weights(score):
    memory = MEMORY[..., :DQ]
    layer = LuongAttention(score=score)
    _, weights = call(layer, memory)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert not weights[0, :, 4:].any()


def test_the_location_score_does_not_read_the_memory():
    layer = LuongAttention(score="location", max_length=S + 2, combine="concatenate")
    _, weights = call(layer)
    want = softmax((QUERY @ array(layer.kernel))[..., :S], MEMORY_MASK[:, None])
    np.testing.assert_allclose(weights, want, atol=1e-5)


def test_each_combination_of_context_and_query_equals_numpy():
    memory = MEMORY[..., :DQ]
    context = np.einsum("bts,bsd->btd", call(LuongAttention(score="dot"), memory)[1], memory)
    want = {
        "sum": context + QUERY,
        "concatenate": np.concatenate([context, QUERY], -1),
        keras.layers.Multiply(): context * QUERY,
    }
    for combine, expected in want.items():
        layer = LuongAttention(score="dot", combine=combine)
        outputs, _ = call(layer, memory)
        np.testing.assert_allclose(outputs, expected, atol=1e-5)
        shape = layer.compute_output_shape((None, None, DQ), (None, None, DQ))
        assert tuple(shape) == (None, None, expected.shape[-1])


def test_combine_concat_is_deprecated():
    with pytest.warns(DeprecationWarning, match='`combine="concat"` is deprecated: use "projec'):
        layer = LuongAttention(score="dot", combine="concat")
    memory = MEMORY[..., :DQ]
    outputs, weights = call(layer, memory)
    joined = np.concatenate([np.einsum("bts,bsd->btd", weights, memory), QUERY], -1)
    np.testing.assert_allclose(outputs, np.tanh(joined @ array(layer.output_kernel)), atol=1e-5)
    config = layer.get_config()
    assert config["combine"] == "projection"
    again = LuongAttention.from_config({**config, "combine": "concat"})
    assert again.combine == "projection"


def test_a_user_layer_as_combination_is_restored_from_the_config():
    layer = LuongAttention(score="dot", combine=keras.layers.Maximum())
    again = LuongAttention.from_config(layer.get_config())
    memory = MEMORY[..., :DQ]
    np.testing.assert_array_equal(call(again, memory)[0], call(layer, memory)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "dotty"}, "`score` must be one of dot, .*, got 'dotty'"),
        ({"locality": "near"}, "`locality` must be one of global, local_m, local_p, got 'near'"),
        ({"window": 0}, "`window` must be a positive integer, got 0"),
        ({"combine": "add"}, "`combine` must be a layer or one of projection, .*, got 'add'"),
    ],
)
def test_invalid_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        LuongAttention(**arguments)


def test_unequal_widths_raise_for_the_sum():
    with pytest.raises(ValueError, match='the same width for combine="sum", got 5 and 11'):
        call(LuongAttention(combine="sum"))
