"""Half precision is finite with any mask, forward and backward, and near the float32 numbers."""

import keras
import numpy as np
import pytest
from keras import tree

from tests.backend import arrays, layer_gradients
from tests.cases import CALLED, LEARNING, built

POLICIES = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")


def in_policy(case, policy):
    weights = built(case).get_weights()
    keras.config.set_dtype_policy(policy)  # of the layers inside the arguments too
    layer = case.make()
    layer(**case.values())
    layer.set_weights(weights)
    return layer


def with_empty_rows(case):
    values = case.values()
    for mask in case.hides:
        values[mask][0] = False
    return values


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("case", CALLED, ids=str)
def test_half_precision_is_finite_and_near(case, policy):
    reference = built(case)
    layer = in_policy(case, policy)
    for values in (case.values(), with_empty_rows(case)):
        expected = tree.flatten(arrays(reference(**values)))
        for output, want in zip(tree.flatten(arrays(layer(**values))), expected, strict=True):
            assert np.isfinite(output).all()
            assert np.linalg.norm(output - want) <= 0.05 * np.linalg.norm(want) + 1e-3


@pytest.mark.parametrize("policy", ("float16", "mixed_bfloat16"))
@pytest.mark.parametrize("case", LEARNING, ids=str)
def test_half_precision_gradients_are_finite(case, policy):
    layer = in_policy(case, policy)
    found = layer_gradients(layer, with_empty_rows(case), **case.training)
    for name, gradient in found.items():
        assert gradient is not None and np.isfinite(gradient).all(), name
