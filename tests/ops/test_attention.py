"""The door: bad input, and the weights; that the kernels agree is held in kernels/."""

import numpy as np
import pytest
from keras import ops as kops

from keras_attn import ops
from keras_attn.ops import AttentionMask
from tests import oracles
from tests.backend import arrays
from tests.ops.kernels.cases import Shape, draw

SHAPE = Shape()


def _fails(message, query=None, key=None, value=None, **options):
    tensors = [x.astype("float32") for x in draw(SHAPE)]
    given = [t if x is None else x for x, t in zip((query, key, value), tensors, strict=True)]
    with pytest.raises(ValueError, match=message):
        ops.attention(*given, **options)


def test_shapes_that_do_not_fit():
    ones = np.ones
    _fails(r"`query` must have shape \[batch, length, heads, width\]", query=ones((2, 13, 5)))
    _fails("same head width, got 4 and 5", query=ones((2, 13, 6, 4)))
    _fails("query 6, key 4, value 4", key=ones((2, 17, 4, 5)), value=ones((2, 17, 4, 7)))
    _fails(r"`bias` must be broadcastable to shape \(2, 6, 13, 17\)", bias=ones((2, 6, 13, 3)))
    ids = kops.zeros((2, 3), "int32")
    mask = AttentionMask(query_sequence_ids=ids, key_sequence_ids=ids)
    _fails(r"`query_sequence_ids` must be broadcastable to shape \(2, 13\)", mask=mask)
    mask = AttentionMask(dense=kops.ones((2, 1, 13, 3), "bool"))
    _fails("`attention_mask` must be broadcastable", mask=mask)


def test_dropout_needs_a_seed_and_a_rate():
    _fails(r"`dropout` must be in \[0, 1\), got 1.0", dropout=1.0)
    _fails("`seed` must be given where dropout is not zero", dropout=0.5)


def test_weights_are_those_of_the_context():
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
