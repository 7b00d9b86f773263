"""HardAttention: samples in training, the largest logit at inference, the log-probability."""

import inspect

import numpy as np
import pytest
from keras import ops

from keras_attn.layers import BahdanauAttention, HardAttention

B, T, S, DQ, DM = 2, 3, 7, 5, 11
RNG = np.random.default_rng(0)
QUERY, MEMORY = RNG.normal(size=(B, T, DQ)), RNG.normal(size=(B, S, DM))
MEMORY_MASK = np.array([[1, 1, 1, 1, 0, 0, 0], [1] * 7], bool)


def tensor(x, dtype="float32"):
    return ops.convert_to_tensor(x, dtype)


def call(layer, **kwargs):
    outputs = layer(
        tensor(QUERY),
        tensor(MEMORY),
        memory_mask=tensor(MEMORY_MASK, "bool"),
        return_attention_scores=True,
        return_log_probability=True,
        **kwargs,
    )
    return [ops.convert_to_numpy(x) for x in outputs]


def log_softmax(layer):
    kernel = np.float64(ops.convert_to_numpy(layer.kernel))
    logits = np.einsum("btq,qd,bsd->bts", QUERY, kernel, MEMORY)
    logits = np.where(MEMORY_MASK[:, None], logits, -np.inf)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("estimator", ["straight_through", "gumbel", "reinforce"])
def test_inference_selects_the_position_of_the_largest_logit(estimator):
    layer = HardAttention(estimator)
    context, weights, log_probability = call(layer)
    best = log_softmax(layer).argmax(-1)
    np.testing.assert_array_equal(weights.argmax(-1), best)
    np.testing.assert_array_equal(np.sort(weights, -1)[..., -2:], [[[0, 1]] * T] * B)
    np.testing.assert_allclose(context, [MEMORY[b][best[b]] for b in range(B)], atol=1e-6)
    np.testing.assert_allclose(log_probability, log_softmax(layer).max(-1), atol=1e-5)


def test_arguments_by_position_are_those_of_the_other_attention_over_a_memory():
    theirs, ours = (
        list(inspect.signature(layer.call).parameters.values())
        for layer in (BahdanauAttention, HardAttention)
    )
    assert ours[: len(theirs)] == theirs
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in ours[len(theirs) :])


@pytest.mark.parametrize("estimator", ["straight_through", "reinforce"])
def test_training_samples_one_position_and_returns_its_log_probability(estimator):
    layer = HardAttention(estimator, seed=3)
    _, weights, log_probability = call(layer, training=True)
    np.testing.assert_array_equal(weights.sum(-1), np.ones((B, T)))
    want = (weights * np.where(np.isinf(log_softmax(layer)), 0, log_softmax(layer))).sum(-1)
    np.testing.assert_allclose(log_probability, want, atol=1e-5)
    draws = [call(layer, training=True)[1] for _ in range(20)]
    assert any(not np.array_equal(weights, draw) for draw in draws)


def test_gumbel_is_soft_in_training():
    _, weights, _ = call(HardAttention("gumbel", seed=3), training=True)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert weights.max() < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": "guess"}, "`estimator` must be one of straight_through, .*, got 'guess'"),
        ({"score": "dotty"}, "`score` must be one of dot, .*, got 'dotty'"),
        ({"temperature": 0}, "`temperature` must be positive, got 0"),
    ],
)
def test_invalid_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        HardAttention(**arguments)
