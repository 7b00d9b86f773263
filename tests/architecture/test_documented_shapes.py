"""The run-time check of documented shapes accepts right shapes and rejects wrong ones."""

import numpy as np
import pytest

from keras_attn import ops
from keras_attn.ops import positions, scores
from tests.shapes import checked, documented, hold, install


def attend(query, key, bias=None):
    """Attend.

    Args:
        query: float `[B, T, H]`, or `[T, H]` for one row.
        key: float `[B, S, H]`;
            of any length.
        bias: float, broadcastable to `[B, T, S]`.

    Returns:
        Weights `[B, T, S]`.
    """
    return query @ key.swapaxes(1, 2)


def test_shapes_are_parsed_from_the_docstring():
    arguments, results = documented(attend)
    assert arguments == {
        "query": (["B, T, H", "T, H"], False),
        "key": (["B, S, H"], False),
        "bias": (["B, T, S"], True),
    }
    assert results == ["B, T, S"]


def test_matching_shapes_are_accepted():
    call = checked(attend, *documented(attend))
    query, key = np.ones((2, 3, 4)), np.ones((2, 5, 4))
    assert call(query, key, bias=np.ones((3, 1))).shape == (2, 3, 5)


@pytest.mark.parametrize(
    ("key", "bias", "name"),
    [((1, 5, 4), None, "key"), ((2, 5, 4), (2, 1), "bias"), ((2, 5, 4), (1, 2, 3, 5), "bias")],
)
def test_an_argument_of_the_wrong_shape_raises(key, bias, name):
    call = checked(attend, *documented(attend))
    bias = None if bias is None else np.ones(bias)
    with pytest.raises(AssertionError, match=f"attend: {name} is documented as"):
        call(np.ones((2, 3, 4)), np.ones(key), bias)


def test_a_result_of_the_wrong_shape_raises():
    call = checked(lambda query, key: query, {"query": (["B, T, H"], False)}, ["B, T, S"])
    assert call(np.ones((2, 3, 4)), None).shape == (2, 3, 4)  # S has no value yet
    call = checked(attend, documented(attend)[0], ["B, S, T"])
    with pytest.raises(AssertionError, match="the result is documented as B, S, T, got"):
        call(np.ones((2, 3, 4)), np.ones((2, 5, 4)))


@pytest.mark.parametrize(
    ("shape", "size", "matches"),
    [
        ("..., R / 2", (7, 3), True),
        ("R / 2", (6,), False),
        ("Q + 1", (2,), True),
        ("4", (5,), False),
    ],
)
def test_arithmetic_in_a_documented_shape(shape, size, matches):
    assert (hold({"R": 6}, shape, np.ones(size)) is not None) is matches


def test_public_functions_are_checked():
    assert not install()  # conftest.py has installed it
    for function in (ops.attention, ops.dense, scores.additive, positions.rotate):
        assert function.__wrapped__
