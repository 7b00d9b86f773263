"""AttentionMask against its definition; structure, blocks, errors."""

import re

import numpy as np
import pytest
from keras import ops as kops

from keras_attn.ops import AttentionMask
from keras_attn.ops.masks import dense_mask
from tests.backend import arrays
from tests.ops.kernels.cases import MASKS, Shape, allowed, mask_from, mask_parts

SHAPE = Shape()
WHOLE = (SHAPE.batch, SHAPE.heads, SHAPE.length, SHAPE.keys)


@pytest.mark.parametrize("name", MASKS)
def test_the_materialized_mask_equals_its_definition(name):
    parts = mask_parts(name, SHAPE)
    matrix = mask_from(parts).materialize(SHAPE.length, SHAPE.keys)
    if name == "none":
        assert matrix is None
    else:
        found = np.broadcast_to(arrays(matrix), WHOLE)
        np.testing.assert_array_equal(found, allowed(parts, SHAPE))


@pytest.mark.parametrize("name", sorted(set(MASKS) - {"none"}))
def test_a_block_equals_the_slice_of_the_whole_mask(name):
    parts = mask_parts(name, SHAPE)
    block = mask_from(parts).block((1, 1), (2, 3), (4, 5), (6, 7)).materialize(5, 7)
    expected = allowed(parts, SHAPE)[1:2, 2:5, 4:9, 6:13]
    np.testing.assert_array_equal(np.broadcast_to(arrays(block), expected.shape), expected)


def test_structure_names_the_arguments_in_use():
    assert AttentionMask().empty and not AttentionMask().may_empty_rows
    causal = AttentionMask(causal=True, query_offset=3)
    assert causal.structure == {"causal"} and causal.shifted and not causal.may_empty_rows
    assert AttentionMask(window=2).structure == {"window"}
    assert AttentionMask(window=2).may_empty_rows  # of a query 2 or more after the last key
    assert AttentionMask(window=[np.int64(4), 4]) == AttentionMask(window=4)
    assert AttentionMask(window=[4, 2]).window == (4, 2)


def test_invalid_mask_arguments_raise():
    for window in (0, -1, 1.5, 2.0, float("nan"), "2", True, (2,), (2, 0), (2, None), (1, 2, 3)):
        text = "`window` must be a positive integer or None, or a pair of positive integers, got "
        with pytest.raises(ValueError, match=re.escape(f"{text}{window!r}")):
            AttentionMask(window=window)
    ids = kops.zeros((2, 3), "int32")
    with pytest.raises(ValueError, match="must be given together, got only one"):
        AttentionMask(query_sequence_ids=ids)
    with pytest.raises(ValueError, match=r"`key_padding` must have rank 2.*got shape \(3,\)"):
        AttentionMask(key_padding=kops.ones((3,), "bool"))
    with pytest.raises(ValueError, match="`dense` must have rank 4"):
        AttentionMask(dense=kops.ones((2, 3), "bool"))
    with pytest.raises(ValueError, match=r"`dense` must have rank 4.*, got shape \(\)"):
        AttentionMask(dense="x")
    with pytest.raises(ValueError, match="`causal` must be True or False, got 'yes'"):
        AttentionMask(causal="yes")
    assert AttentionMask(causal=np.bool_(False)).empty
    with pytest.raises(ValueError, match="`attention_mask` must have shape"):
        dense_mask(kops.ones((3,), "bool"))
    for shape, wanted in (((3, 5), (1, 1, 3, 5)), ((2, 3, 5), (2, 1, 3, 5))):
        assert dense_mask(kops.ones(shape, "bool")).shape == wanted
