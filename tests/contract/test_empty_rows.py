"""A fully masked query has zero weights, zero context and zero gradient, on every path."""

import keras
import numpy as np
import pytest

from keras_attn import layers
from tests.backend import arrays, layer_gradients

B, T, S, N, D, DV = 2, 5, 7, 3, 12, 11
SLOW = pytest.mark.slow_on("jax")
EMPTY = 3  # the index of the fully masked query


def _masks():
    pattern = np.ones((B, T, S), bool)
    pattern[:, EMPTY] = False
    rows = np.ones((B, T), bool)
    rows[:, EMPTY] = False
    query_ids, key_ids = np.zeros((B, T), "int32"), np.zeros((B, S), "int32")
    query_ids[:, EMPTY] = 9
    return {
        "attention_mask": {"attention_mask": pattern},
        "per_head": {"attention_mask": np.tile(pattern[:, None], (1, N, 1, 1))},
        "query_mask": {"query_mask": rows},
        "sequence_ids": {"sequence_ids": (query_ids, key_ids)},
    }


def _inputs():
    rng = np.random.default_rng(0)
    return {
        "query": rng.normal(size=(B, T, D)).astype("float32"),
        "value": rng.normal(size=(B, S, DV)).astype("float32"),
    }


def _layer(**options):
    layer = layers.MultiHeadCrossAttention(N, bias_initializer="normal", **options)
    layer(**_inputs())
    return layer


@pytest.mark.parametrize(
    "training", [pytest.param(False, marks=SLOW), True], ids=["inference", "dropout"]
)
@pytest.mark.parametrize("scores", [False, True], ids=["output", "scores"])
@pytest.mark.parametrize("mask", _masks())
def test_a_fully_masked_query_has_zero_weights_context_and_gradient(mask, scores, training):
    layer, inputs = _layer(dropout=0.5), {**_inputs(), **_masks()[mask]}
    options = {"training": training, "return_attention_scores": scores}
    outputs = layer(**inputs, **options)
    if scores:
        outputs, weights = outputs
        np.testing.assert_array_equal(arrays(weights)[:, :, EMPTY], 0)
    bias = arrays(layer.output_projection.bias)
    np.testing.assert_array_equal(arrays(outputs)[:, EMPTY], np.tile(bias, (B, 1)))
    found = layer_gradients(layer, inputs, **options)
    np.testing.assert_array_equal(found["input:query"][:, EMPTY], 0)
    assert all(np.isfinite(gradient).all() for gradient in found.values())


@pytest.mark.parametrize("scores", [False, True], ids=["output", "scores"])
def test_a_batch_row_of_only_padding_has_zero_gradients(scores):
    layer, inputs = _layer(), _inputs()
    inputs["value_mask"] = np.ones((B, S), bool)
    inputs["value_mask"][0] = False
    found = layer_gradients(layer, inputs, return_attention_scores=scores)
    for name in ("input:query", "input:value"):
        np.testing.assert_array_equal(found[name][0], 0)
        assert np.abs(found[name][1]).max() > 0


@pytest.mark.parametrize(
    "policy",
    [
        "float16",
        pytest.param("bfloat16", marks=SLOW),
        pytest.param("mixed_float16", marks=SLOW),
        "mixed_bfloat16",
    ],
)
@pytest.mark.parametrize("mask", _masks())
def test_a_fully_masked_query_has_zero_context_in_half_precision(mask, policy):
    keras.config.set_dtype_policy(policy)
    layer = _layer()
    outputs, weights = layer(**_inputs(), **_masks()[mask], return_attention_scores=True)
    np.testing.assert_array_equal(arrays(weights)[:, :, EMPTY], 0)
    bias = arrays(keras.ops.cast(layer.output_projection.bias, layer.compute_dtype))
    np.testing.assert_array_equal(arrays(outputs)[:, EMPTY], np.tile(bias, (B, 1)))
