"""Every weight learns, unless mathematics leaves it nothing to learn; nothing hidden learns."""

import numpy as np
import pytest

from tests.backend import layer_gradients
from tests.cases import LEARNING, built
from tests.contract.test_invariance import HIDING, HIDING_IDS


@pytest.mark.parametrize("case", LEARNING, ids=str)
def test_every_weight_has_a_gradient(case):
    # Zero is a difference of large numbers there, so it is measured by the largest gradient.
    found = layer_gradients(built(case), case.values(), **case.training)
    weights = {name: g for name, g in found.items() if not name.startswith("input:")}
    assert len(weights) == len(built(case).trainable_variables)
    for name, gradient in weights.items():
        assert gradient is not None and np.isfinite(gradient).all(), name
        if name.endswith(case.zero_gradients or ("\0",)):
            np.testing.assert_allclose(gradient, 0, atol=1e-4, err_msg=name)
        else:
            assert np.abs(gradient).max() > 1e-6, name


@pytest.mark.parametrize(("case", "mask"), HIDING, ids=HIDING_IDS)
def test_no_gradient_flows_into_a_masked_place(case, mask):
    # A padded query is computed like any other: only an output at a visible place counts, so this
    # asks the layers whose masked input is not the output's own sequence.
    values = case.values()
    name, shown = case.hides[mask], values[mask]
    if shown.shape == next(iter(values.values())).shape[:2] and name == next(iter(values)):
        pytest.skip("masked places of this input have outputs of their own")
    gradient = layer_gradients(built(case), values)[f"input:{name}"]
    np.testing.assert_array_equal(gradient[~shown], 0)
    assert np.abs(gradient[shown]).max() > 0
