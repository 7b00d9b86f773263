"""Selections against the equations of the papers in float64 numpy."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_attn.backend import compiled
from keras_attn.ops import selection

B, T, S = 2, 3, 7
RNG = np.random.default_rng(1)
LOGITS = RNG.normal(size=(B, T, S)) * 2
MASK = np.ones((B, T, S), bool)
MASK[0, :, 5:] = False
MASK[1, 1] = False  # a fully masked query
SEED = np.array([3, 5], "uint32")


def tensor(x, dtype="float32"):
    return ops.convert_to_tensor(np.asarray(x), dtype)


def numpy_softmax(logits, mask):
    weights = np.exp(logits - logits.max(-1, keepdims=True)) * mask
    total = weights.sum(-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def run(name, *args, mask=MASK, **kwargs):
    mask = None if mask is None else tensor(mask, "bool")
    return getattr(selection, name)(tensor(LOGITS), *args, mask=mask, **kwargs)


def array(x):
    return ops.convert_to_numpy(x)


def test_soft_attention_of_the_worked_example():
    weights = selection.soft(tensor([[[3.2, 5.1, -1.7]]]))
    np.testing.assert_array_equal(np.round(array(weights)[0, 0], 2), np.float32([0.13, 0.87, 0]))


def test_soft_equals_a_masked_softmax():
    np.testing.assert_allclose(array(run("soft")), numpy_softmax(LOGITS, MASK), atol=1e-6)
    np.testing.assert_allclose(
        array(run("soft", mask=None)), numpy_softmax(LOGITS, np.ones_like(MASK)), atol=1e-6
    )


def test_greedy_selects_the_unmasked_key_of_the_largest_logit():
    weights = array(run("greedy"))
    best = np.where(MASK, LOGITS, -np.inf).argmax(-1)
    np.testing.assert_array_equal(weights.argmax(-1)[MASK.any(-1)], best[MASK.any(-1)])
    np.testing.assert_array_equal(weights.sum(-1), MASK.any(-1))


def test_hard_samples_with_the_softmax_probabilities():
    rows = 4000
    logits, mask = LOGITS[:1, :1], MASK[:1, :1]
    many = tensor(np.repeat(logits, rows, axis=1))
    weights, log_probability = selection.hard(many, tensor(SEED, "uint32"), tensor(mask, "bool"))
    expected = numpy_softmax(logits, mask)[0, 0]
    np.testing.assert_allclose(array(weights)[0].mean(0), expected, atol=0.03)
    chosen = np.log(expected[array(weights)[0].argmax(-1)])
    np.testing.assert_allclose(array(log_probability)[0], chosen, atol=1e-5)


def test_samples_depend_on_the_seed():
    draws = [array(run("hard", tensor(s, "uint32"))[0]) for s in (SEED, SEED, SEED + 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_straight_through_is_hard_forward_and_soft_backward():
    seed = tensor(SEED, "uint32")
    np.testing.assert_array_equal(array(run("straight_through", seed)), array(run("hard", seed)[0]))
    value = tensor(RNG.normal(size=(B, T, S)))
    through = gradient(lambda x: selection.straight_through(x, seed, tensor(MASK, "bool")) * value)
    soft = gradient(lambda x: selection.soft(x, tensor(MASK, "bool")) * value)
    np.testing.assert_allclose(through, soft, atol=1e-6)
    assert np.abs(soft).max() > 0


def test_reinforce_gradient_is_one_hot_minus_softmax():
    seed, mask = tensor(SEED, "uint32"), tensor(MASK, "bool")
    grad = gradient(lambda x: selection.hard(x, seed, mask)[1])
    weights = array(selection.hard(tensor(LOGITS), seed, mask)[0])
    expected = (weights - numpy_softmax(LOGITS, MASK)) * MASK.any(-1, keepdims=True)
    np.testing.assert_allclose(grad, expected, atol=1e-5)


def test_gumbel_sharpens_with_the_temperature_and_sums_to_one():
    seed = tensor(SEED, "uint32")
    warm, cold = (array(run("gumbel", seed, temperature=t)) for t in (1.0, 0.01))
    np.testing.assert_allclose(warm.sum(-1), MASK.any(-1), atol=1e-5)
    np.testing.assert_array_equal(cold.argmax(-1), array(run("hard", seed)[0]).argmax(-1))
    assert warm.max(-1)[0].max() < cold.max(-1)[0].min()


def test_one_key_takes_all_weight_without_a_warning():
    mask = tensor([[[True]], [[False]]], "bool")
    for name in ("soft", "gumbel", "straight_through"):
        weights = array(SELECTIONS[name](tensor([[[3.0]], [[3.0]]]), mask))
        assert weights.tolist() == [[[1.0]], [[0.0]]]


@pytest.mark.parametrize("temperature", [1e-9, 1e-38])
def test_gumbel_at_a_tiny_temperature_is_the_hard_choice(temperature):
    """Compiled, since XLA may divide otherwise there."""
    seed, logits, mask = tensor(SEED, "uint32"), tensor(LOGITS), tensor(MASK, "bool")
    draw = compiled(lambda *given: selection.gumbel(*given, temperature))
    expected = array(run("hard", seed)[0])
    np.testing.assert_array_equal(array(draw(logits, seed, mask)), expected)


@pytest.mark.parametrize("offset", [0, 2, [[1], [4]]])
def test_local_monotonic_equals_numpy(offset):
    near = np.zeros((B, T, S), bool)
    for b in range(B):
        for t in range(T):
            center = t + np.broadcast_to(np.reshape(offset, (-1, 1)), (B, 1))[b, 0]
            near[b, t, max(center - 2, 0) : center + 3] = True
    weights = run("local_monotonic", 2, query_offset=np.array(offset, "int32"))
    np.testing.assert_allclose(array(weights), numpy_softmax(LOGITS, MASK & near), atol=1e-6)


def test_local_predictive_equals_numpy():
    width, units, window = 5, 11, 3
    query, kernel = RNG.normal(size=(B, T, width)), RNG.normal(size=(width, units))
    scale, length = RNG.normal(size=units), np.array([5, 7])
    center = selection.predicted_center(
        tensor(query), tensor(kernel), tensor(scale), tensor(length)
    )
    expected = np.zeros((B, T, S))
    for b in range(B):
        for t in range(T):
            p = length[b] / (1 + np.exp(-scale @ np.tanh(kernel.T @ query[b, t])))
            np.testing.assert_allclose(array(center)[b, t], p, rtol=1e-5)
            inside = MASK[b, t] & (np.abs(np.arange(S) - p) <= window)
            align = numpy_softmax(LOGITS[b, t], inside)
            expected[b, t] = align * np.exp(-((np.arange(S) - p) ** 2) / (2 * (window / 2) ** 2))
    weights = run("local_predictive", center, window)
    np.testing.assert_allclose(array(weights), expected, atol=1e-5)


def numpy_monotonic(logits, mask):
    """The paper's algorithm: the probability to reach key j times the one to stop there."""
    weights = np.zeros_like(logits)
    for b in range(B):
        previous = np.eye(S)[0]
        for t in range(T):
            arriving = 0.0
            for s in range(S):
                reached = arriving + previous[s]
                stop = mask[b, t, s] / (1 + np.exp(-logits[b, t, s]))
                weights[b, t, s], arriving = stop * reached, (1 - stop) * reached
            previous = weights[b, t] if mask[b, t].any() else previous
    return weights


@pytest.mark.parametrize("mode", ["parallel", "recursive"])
def test_monotonic_expectation_equals_numpy(mode):
    weights = array(run("monotonic", mode=mode))
    np.testing.assert_allclose(weights, numpy_monotonic(LOGITS, MASK), atol=1e-5)


def test_monotonic_steps_equal_the_whole_sequence():
    whole = array(run("monotonic", mask=None))
    previous = None
    for t in range(T):
        row = selection.monotonic(tensor(LOGITS[:, t : t + 1]), previous=previous)
        np.testing.assert_allclose(array(row)[:, 0], whole[:, t], atol=1e-6)
        previous = row[:, 0]


def test_hard_monotonic_never_moves_backwards():
    logits = [[[-1, 2, 3, -1, 5], [4, -2, -1, 1, 1], [9, 9, 9, -1, -1], [9, 9, 9, 9, 9]]]
    weights = array(selection.monotonic(tensor(logits), mode="hard"))[0]
    expected = [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(weights, expected)


SELECTIONS = {
    "soft": lambda x, m: selection.soft(x, m),
    "greedy": lambda x, m: selection.greedy(x, m),
    "hard": lambda x, m: selection.hard(x, tensor(SEED, "uint32"), m)[0],
    "straight_through": lambda x, m: selection.straight_through(x, tensor(SEED, "uint32"), m),
    "gumbel": lambda x, m: selection.gumbel(x, tensor(SEED, "uint32"), m),
    "local_monotonic": lambda x, m: selection.local_monotonic(x, 2, m),
    "local_predictive": lambda x, m: selection.local_predictive(x, ops.ones((B, T)), 2, m),
    "monotonic": lambda x, m: selection.monotonic(x, m),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_masked_keys_get_zero_weight_and_fully_masked_rows_zero_gradient(name):
    own = {
        n for n, f in vars(selection).items() if getattr(f, "__module__", "") == selection.__name__
    }
    public = {n for n in own if not n.startswith("_")}
    assert public == {*SELECTIONS, "log_probability", "predicted_center"}
    mask = tensor(MASK, "bool")
    weights = array(SELECTIONS[name](tensor(LOGITS), mask))
    assert weights.dtype == "float32"
    assert not weights[~MASK].any()
    value = tensor(RNG.normal(size=(B, T, S)))
    grad = gradient(lambda x: SELECTIONS[name](x, mask) * value)
    assert np.isfinite(grad).all()
    assert not grad[1, 1].any()


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_logits_give_finite_float32_weights(name, dtype):
    huge = tensor(LOGITS * 1e4, dtype)
    weights = SELECTIONS[name](huge, tensor(MASK, "bool"))
    assert keras.backend.standardize_dtype(weights.dtype) == "float32"
    assert np.isfinite(array(weights)).all()


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("low", [-np.inf, -1e9, float(np.finfo("float32").min)])
def test_masked_keys_get_zero_weight_for_any_logits(name, low):
    logits = np.where(MASK, low, 5.0)
    logits[0, :, 6] = np.nan  # masked
    weights = array(SELECTIONS[name](tensor(logits), tensor(MASK, "bool")))
    assert np.isfinite(weights).all()
    assert not weights[~MASK].any()
    if low == -np.inf:
        assert not weights.any()
    elif name in ("soft", "gumbel"):
        expected = MASK / np.maximum(MASK.sum(-1, keepdims=True), 1)
        np.testing.assert_allclose(weights, expected, atol=1e-6)
    grad = gradient(lambda x: SELECTIONS[name](x, tensor(MASK, "bool")) ** 2, logits)
    assert np.isfinite(grad).all()


@pytest.mark.backends("tensorflow", "torch", reason="JAX has no float64 here")
@pytest.mark.parametrize("name", SELECTIONS)
def test_float64_is_computed_in_float64(name):
    weights = array(SELECTIONS[name](tensor(LOGITS, "float64"), tensor(MASK, "bool")))
    assert weights.dtype == "float64"
    if name == "soft":
        np.testing.assert_allclose(weights, numpy_softmax(LOGITS, MASK), atol=1e-15)
    if name == "local_predictive":
        distance = np.arange(S) - 1.0
        near = MASK & (abs(distance) <= 2)
        expected = numpy_softmax(LOGITS, near) * np.exp(-(distance**2) / 2)
        np.testing.assert_allclose(weights, expected, atol=1e-15)


def test_an_unknown_mode_raises():
    with pytest.raises(ValueError, match="`mode` must be one of parallel, recursive, hard, got"):
        run("monotonic", mode="soft")


def gradient(function, at=LOGITS):
    """Gradient of the sum of the outputs of `function`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        x = tf.Variable(tensor(at))
        with tf.GradientTape() as tape:
            total = ops.sum(function(x))
        grad = tape.gradient(total, x)
        return np.zeros_like(at) if grad is None else grad.numpy()
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(lambda x: ops.sum(function(x)))(tensor(at)))
    x = tensor(at).requires_grad_(True)
    total = ops.sum(function(x))
    if total.requires_grad:
        total.backward()
    return np.zeros_like(at) if x.grad is None else x.grad.cpu().numpy()
