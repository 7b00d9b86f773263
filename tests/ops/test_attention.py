"""`ops.attention`: invalid input and returned weights; tests/ops/kernels compares the kernels."""

import numpy as np
import pytest
from keras import ops as kops

from keras_attn import ops
from keras_attn.ops import AttentionMask
from tests import oracles
from tests.backend import arrays
from tests.ops.kernels.cases import Shape, allowed, draw

SHAPE = Shape()


def _fails(message, query=None, key=None, value=None, **options):
    tensors = [x.astype("float32") for x in draw(SHAPE)]
    given = [t if x is None else x for x, t in zip((query, key, value), tensors, strict=True)]
    with pytest.raises(ValueError, match=message):
        ops.attention(*given, **options)


def test_incompatible_shapes_raise():
    ones = np.ones
    _fails(r"`query` must have shape \[batch, length, heads, width\]", query=ones((2, 13, 5)))
    _fails("same head width, got 4 and 5", query=ones((2, 13, 6, 4)))
    _fails("query 6, key 4, value 4", key=ones((2, 17, 4, 5)), value=ones((2, 17, 4, 7)))
    _fails(
        r"`bias` must have rank 4 and be broadcastable to shape \(2, 6, 13, 17\)",
        bias=ones((2, 6, 13, 3)),
    )
    ids = kops.zeros((2, 3), "int32")
    mask = AttentionMask(query_sequence_ids=ids, key_sequence_ids=ids)
    _fails(
        r"`query_sequence_ids` must have rank 2 and be broadcastable to shape \(2, 13\)", mask=mask
    )
    mask = AttentionMask(dense=kops.ones((2, 1, 13, 3), "bool"))
    _fails("`mask.dense` must have rank 4 and be broadcastable", mask=mask)
    for offset in (-1, np.int64(-1), np.array(-1)):
        mask = AttentionMask(causal=True, query_offset=offset)
        _fails("`query_offset` must be at least 0, got -1", mask=mask)
    _fails("equally many positions, got 17 and 1", value=ones((2, 1, 2, 7)))
    _fails("equally many rows, got 2 and 1", value=ones((1, 17, 2, 7)))
    _fails("must have heads and a width, got", ones((2, 13, 6, 0)), ones((2, 17, 2, 0)))


def test_inputs_that_are_not_floats_raise():
    _fails(
        "`query` must have a floating-point dtype, got int32", query=np.ones((2, 13, 6, 5), "int32")
    )
    _fails("`bias` must have a floating-point dtype, got bool", bias=np.ones((1, 1, 13, 17), bool))


def test_a_matrix_as_mask_raises():
    _fails("`mask` must be an AttentionMask, which takes a matrix", mask=np.ones((13, 17), bool))


@pytest.mark.parametrize("kernel", ["auto", "chunked", "reference"])
def test_mask_arguments_may_be_arrays_or_lists(kernel):
    tensors = [x.astype("float32") for x in draw(SHAPE)]
    rng = np.random.default_rng(1)
    parts = {
        "key_padding": rng.random((SHAPE.batch, SHAPE.keys)) < 0.7,
        "query_padding": rng.random((SHAPE.batch, SHAPE.length)) < 0.7,
        "query_sequence_ids": rng.integers(0, 2, (SHAPE.batch, SHAPE.length)).astype("int32"),
        "key_sequence_ids": rng.integers(0, 2, (SHAPE.batch, SHAPE.keys)).astype("int32"),
        "dense": rng.random((1, 1, SHAPE.length, SHAPE.keys)) < 0.8,
    }
    for names in (list(parts), ["query_padding"], ["key_padding", "query_padding"]):
        given = {name: parts[name] for name in names}
        visible = kops.array(allowed(given, SHAPE))
        expected = ops.attention(*tensors, mask=AttentionMask(dense=visible))
        for mask in (given, {name: part.tolist() for name, part in given.items()}):
            context = ops.attention(*tensors, mask=AttentionMask(**mask), kernel=kernel)
            np.testing.assert_allclose(context, expected, atol=1e-6)


@pytest.mark.parametrize(
    "kernel", [pytest.param("auto", marks=pytest.mark.slow_on("jax")), "chunked", "reference"]
)
@pytest.mark.parametrize("sizes", [(0, 3, 5), (2, 0, 5), (2, 3, 0), (0, 0, 0)])
def test_empty_inputs_give_empty_or_zero_context(sizes, kernel):
    batch, length, keys = sizes
    query, key, value = draw(Shape(batch=batch, length=length, keys=keys))
    options = {} if kernel == "reference" else {"block_size": 2}
    padding = np.ones((batch, keys), bool)
    for mask in (None, AttentionMask(causal=True, window=2), AttentionMask(key_padding=padding)):
        context = arrays(ops.attention(query, key, value, mask=mask, kernel=kernel, **options))
        np.testing.assert_array_equal(context, np.zeros((batch, length, *value.shape[2:])))


def test_an_invalid_dropout_rate_or_seed_raises():
    _fails(r"`dropout` must be in \[0, 1\), got 1.0", dropout=1.0)
    for seed in (None, 5, [1, 2], np.ones(2), np.ones(3, "int32"), np.ones((1, 2), "int32")):
        _fails(r"`seed` must be an integer tensor \[2\] where", dropout=0.5, seed=seed)


def test_a_scale_that_is_no_number_raises():
    _fails("`scale` must be a number, got 'a'", scale="a")


def test_returned_weights_equal_those_behind_the_context():
    query, key, value = (x.astype("float32") for x in draw(SHAPE))
    mask = AttentionMask(causal=True)
    context, weights = ops.attention(query, key, value, mask=mask, return_scores=True)
    logits = np.einsum("btnh,bsnh->bnts", query, key) / np.sqrt(SHAPE.width)
    seen = np.tri(*logits.shape[-2:], dtype=bool)
    expected = oracles.softmax(np.where(seen, logits, -np.inf))
    np.testing.assert_allclose(arrays(weights), expected, atol=1e-6)
    expected = np.einsum("bnts,bsnh->btnh", arrays(weights), value)
    np.testing.assert_allclose(context, expected, atol=1e-6)
    np.testing.assert_allclose(context, ops.attention(query, key, value, mask=mask), atol=1e-6)
