"""Our drop-in replacements for Keras' attention layers against theirs, with the same weights.

Letters: B batch, T query length, S key length, D width, N query heads, K key/value heads, H head
width.
"""

import importlib
import unittest

import keras
import numpy as np
import pytest

from keras_attn import layers
from tests.backend import arrays, layer_gradients, randomize

B, T, S, D, N, K, H = 2, 5, 7, 12, 6, 3, 4
RNG = np.random.default_rng(0)
QUERY, VALUE, KEY = (RNG.normal(size=(B, n, D)).astype("float32") for n in (T, S, S))
MASK = RNG.random((B, T, S)) < 0.6
MASK[..., 0] = True
QUERY_MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 1, 1]], "bool")
VALUE_MASK = np.array([[1, 1, 1, 1, 0, 1, 1], [1, 0, 1, 0, 0, 0, 0]], "bool")


def pair(name, shapes, *args, **options):
    """Keras' layer and ours, built, with the same random weights."""
    found = [getattr(home, name)(*args, **options) for home in (keras.layers, layers)]
    for layer in found:
        layer.build(*shapes)
    for ours, theirs in zip(found[1].weights, found[0].weights, strict=True):
        theirs.assign(RNG.normal(size=theirs.shape) / 3)
        ours.assign(theirs)
    return found


def assert_same(ours, theirs):
    for one, other in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        np.testing.assert_allclose(arrays(one), arrays(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"use_gate": True, "sliding_window": 2}], ids=str)
@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        {},
        {"use_causal_mask": True},
        {"key": KEY, "attention_mask": MASK, "use_causal_mask": True},
        {"attention_mask": MASK.astype("int32"), "value_mask": VALUE_MASK | True},
        {"attention_mask": MASK.astype("float32") * 3},
    ],
    ids=lambda call: "-".join(call),
)
def test_group_query_attention_equals_keras(options, scores, call):
    shapes = (QUERY.shape, VALUE.shape)
    theirs, ours = pair("GroupQueryAttention", shapes, H, N, K, **options)
    call = call | {"return_attention_scores": scores}
    assert_same(ours(QUERY, VALUE, **call), theirs(QUERY, VALUE, **call))


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Attention", {}),
        ("Attention", {"use_scale": True}),
        ("Attention", {"score_mode": "concat"}),
        ("Attention", {"score_mode": "concat", "use_scale": True}),
        ("AdditiveAttention", {}),
        ("AdditiveAttention", {"use_scale": False}),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("keys", "masks", "causal"),
    [
        (False, None, True),
        (True, [QUERY_MASK, VALUE_MASK], False),
        (True, [QUERY_MASK, VALUE_MASK, None], True),
        (False, [None, VALUE_MASK], False),
    ],
    ids=str,
)
def test_list_inputs_equal_keras(name, options, keys, masks, causal, scores):
    inputs = [QUERY, VALUE, KEY] if keys else [QUERY, VALUE]
    theirs, ours = pair(name, ([x.shape for x in inputs],), **options)
    call = {"mask": masks, "use_causal_mask": causal, "return_attention_scores": scores}
    assert_same(ours(inputs, **call), theirs(inputs, **call))


@pytest.mark.parametrize("name", ["Attention", "AdditiveAttention"])
def test_list_inputs_of_other_ranks_equal_keras(name):
    for shape in ((2, 3, T, D), (T, D)):
        query, value = RNG.normal(size=shape), RNG.normal(size=(*shape[:-2], S, D))
        theirs, ours = pair(name, ([query.shape, value.shape],))
        call = {"use_causal_mask": len(shape) > 2, "return_attention_scores": True}
        assert_same(ours([query, value], **call), theirs([query, value], **call))


@pytest.mark.parametrize("name", ["Attention", "AdditiveAttention"])
def test_list_inputs_with_a_fully_masked_query_give_zeros(name):
    _, ours = pair(name, ([QUERY.shape, VALUE.shape],))
    mask = [None, np.zeros((B, S), "bool")]
    context, scores = ours([QUERY, VALUE], mask=mask, return_attention_scores=True)
    np.testing.assert_array_equal(arrays(context), 0)
    np.testing.assert_array_equal(arrays(scores), 0)


@pytest.mark.parametrize("name", ["Attention", "AdditiveAttention"])
def test_list_inputs_with_nan_at_masked_values_keep_their_gradients(name):
    _, ours = pair(name, ([x.shape for x in (QUERY, VALUE, KEY)],), use_scale=True)

    def found(by):
        value, key = (np.where(VALUE_MASK[..., None], x, by).astype("f4") for x in (VALUE, KEY))
        inputs = {"inputs": [QUERY, value, key], "mask": [QUERY_MASK, VALUE_MASK]}
        return layer_gradients(ours, inputs)

    expected = found(0.0)
    for label, gradient in found(np.nan).items():
        np.testing.assert_allclose(gradient, expected[label], 1e-5, 1e-6, err_msg=label)


def test_keras_masks_are_applied_and_propagated():
    ids = np.array([[3, 1, 4, 1, 0], [2, 7, 0, 0, 0]])
    hidden = keras.layers.Embedding(9, D, mask_zero=True)(ids)
    for layer, inputs in (
        (layers.GroupQueryAttention(H, N, K), (hidden, hidden)),
        (layers.Attention(), ([hidden, hidden],)),
    ):
        outputs, scores = layer(*inputs, return_attention_scores=True)
        hides = np.broadcast_to((ids == 0)[:, None], (B, 5, 5))
        scores = arrays(scores).reshape(B, -1, 5, 5)[:, 0]
        np.testing.assert_array_equal(scores[hides], 0)
        pooled = arrays(keras.layers.GlobalAveragePooling1D()(outputs))
        expected = [arrays(outputs)[row, : (ids[row] > 0).sum()].mean(0) for row in range(B)]
        np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-5)


# Keras' own tests, which are in its wheel, with our classes in place of theirs.

OWN = {
    "multi_head_attention_test": ("MultiHeadAttention", layers.MultiHeadAttention),
    "grouped_query_attention_test": ("GroupedQueryAttention", layers.GroupQueryAttention),
    "attention_test": ("Attention", layers.Attention),
    "additive_attention_test": ("AdditiveAttention", layers.AdditiveAttention),
}
EXCLUDED = {
    "test_flash_attention_with_errors": "expects flash_attention=True to raise with dropout, with "
    "scores, and on backends without a kernel; ours computes all three",
}
COUNTS = {  # of Keras 3.15.1, less the excluded ones and one in ten
    "multi_head_attention_test": 44,
    "grouped_query_attention_test": 26,
    "attention_test": 28,
    "additive_attention_test": 3,
}
FAST = ("test_masking", "test_sliding", "test_causal", "test_query_mask", "test_attention_with")


class Substituted:
    """`keras.src.layers` with one class replaced."""

    def __init__(self, home, name, ours):
        self._home = home
        setattr(self, name, ours)

    def __getattr__(self, name):
        return getattr(self._home, name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("names", [FAST, pytest.param(("test_",), marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "file",
    [
        "multi_head_attention_test",
        "grouped_query_attention_test",
        "attention_test",
        "additive_attention_test",
    ],
)
def test_keras_own_tests_pass_with_our_classes(file, names, monkeypatch, pytestconfig):
    pytestconfig.addinivalue_line("markers", "requires_trainable_backend: of Keras' own tests")
    module = importlib.import_module(f"keras.src.layers.attention.{file}")
    monkeypatch.setattr(module, "layers", Substituted(module.layers, *OWN[file]))
    cases = [
        case
        for suite in unittest.defaultTestLoader.loadTestsFromModule(module)
        for case in suite
        if case._testMethodName.startswith(names) and case._testMethodName not in EXCLUDED
    ]
    assert cases or file == "additive_attention_test"
    result = unittest.TestResult()
    for case in cases:
        case.run(result)
    assert [(str(case), text) for case, text in (*result.failures, *result.errors)] == []
    assert names is FAST or len(cases) - len(result.skipped) >= COUNTS[file]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("MultiHeadAttention", (N, H)),
        ("GroupQueryAttention", (H, N, K)),
        ("Attention", (True,)),
        ("AdditiveAttention", ()),
    ],
)
def test_weight_files_are_interchangeable_with_keras(name, arguments, tmp_path):
    inputs = keras.Input((4, D)), keras.Input((3, D))
    many = name in ("MultiHeadAttention", "GroupQueryAttention")
    found = []
    for kind in (getattr(keras.layers, name), getattr(layers, name)):
        layer = kind(*arguments, name="attention")
        model = keras.Model(inputs, layer(*inputs) if many else layer([*inputs]))
        found.append(randomize(model))
    for source, target in (found, found[::-1]):
        for weight in target.weights:
            weight.assign(weight * 0)
        path = tmp_path / f"{type(source.get_layer('attention')).__module__}.weights.h5"
        source.save_weights(path)
        target.load_weights(path)
        for ours, theirs in zip(source.get_weights(), target.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
