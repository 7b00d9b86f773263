"""Every weight has a gradient unless it is zero by mathematics; masked inputs have none."""

import numpy as np
import pytest

from tests.backend import layer_gradients
from tests.cases import LEARNING, built, few_but_on_torch
from tests.contract.test_invariance import HIDING


@pytest.mark.parametrize("case", LEARNING, ids=str)
def test_every_weight_has_a_gradient(case):
    # A gradient that is zero by mathematics is a difference of large numbers, hence the tolerance.
    found = layer_gradients(built(case), case.values(), **case.training)
    weights = {name: g for name, g in found.items() if not name.startswith("input:")}
    assert len(weights) == len(built(case).trainable_variables)
    for name, gradient in weights.items():
        assert gradient is not None and np.isfinite(gradient).all(), name
        if name.endswith(case.zero_gradients or ("\0",)):
            np.testing.assert_allclose(gradient, 0, atol=1e-4, err_msg=name)
        else:
            assert np.abs(gradient).max() > 1e-6, name


def without_outputs(case, mask):
    """Whether masked positions have no outputs of their own, as those of the first input have.

    A padded query is computed like any other: only outputs at unmasked positions are compared.
    """
    values = case.values()
    first, name = next(iter(values)), case.hides[mask]
    return name != first or values[mask].shape != values[first].shape[:2]


@pytest.mark.parametrize(
    ("case", "mask"),
    few_but_on_torch([one for one in HIDING if without_outputs(*one)]),
)
def test_masked_positions_get_zero_gradient(case, mask):
    values = case.values()
    name, shown = case.hides[mask], values[mask]
    gradient = layer_gradients(built(case), values)[f"input:{name}"]
    np.testing.assert_array_equal(gradient[~shown], 0)
    assert np.abs(gradient[shown]).max() > 0
