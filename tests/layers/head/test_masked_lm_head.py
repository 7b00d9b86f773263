"""MaskedLMHead against numpy."""

import re

import numpy as np
import pytest

from keras_attn import layers
from tests import oracles
from tests.backend import arrays, randomize, weights_of

RNG = np.random.default_rng(0)
INPUTS, MATRIX = (RNG.normal(size=s).astype("float32") for s in ((2, 5, 7), (13, 4)))
PLACES = np.array([[4, 0, 2], [1, 1, 3]], "int32")


def test_outputs_follow_the_equations_of_the_paper():
    head = layers.MaskedLMHead(layer_norm_epsilon=1e-3)
    head.build(INPUTS.shape, MATRIX.shape)
    randomize(head)
    outputs = arrays(head(INPUTS, MATRIX, masked_positions=PLACES))
    w = weights_of(head)
    chosen = np.take_along_axis(INPUTS.astype("float64"), PLACES[..., None], 1)
    hidden = oracles.gelu(chosen @ w["transformation/kernel"] + w["transformation/bias"])
    hidden = oracles.layer_norm(hidden, w["norm/gamma"], w["norm/beta"], 1e-3)
    np.testing.assert_allclose(outputs, hidden @ MATRIX.T + w["bias"], rtol=1e-4, atol=1e-4)
    everywhere = arrays(head(INPUTS, MATRIX))
    found = np.take_along_axis(everywhere, PLACES[..., None], 1)
    np.testing.assert_allclose(found, outputs, rtol=1e-5, atol=1e-5)


def test_a_masked_position_out_of_range_is_clipped():
    head = layers.MaskedLMHead()
    outside, inside = np.array([[-3, 99]] * 2), np.array([[0, 4]] * 2)
    np.testing.assert_array_equal(
        arrays(head(INPUTS, MATRIX, masked_positions=outside)),
        arrays(head(INPUTS, MATRIX, masked_positions=inside)),
    )


def test_invalid_input_raises():
    with pytest.raises(ValueError, match=r"`embedding_matrix` must have shape .*got shape \(13,\)"):
        layers.MaskedLMHead()(INPUTS, MATRIX[:, 0])


@pytest.mark.parametrize("shape", [(2,), (1, 3), (3, 2), (2, 3, 1)], ids=str)
@pytest.mark.parametrize("losses", [False, True], ids=["logits", "losses"])
def test_masked_positions_of_the_wrong_shape_raise(shape, losses):
    layer, given = layers.MaskedLMHead(), {"masked_positions": np.ones(shape, "int32")}
    if losses:
        layer, given["labels"] = layers.LinearCrossEntropy(layer), np.ones(shape, "int32")
    wanted = f"`masked_positions` must have shape [batch, positions] = (2, None), got shape {shape}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        layer(INPUTS, MATRIX, **given)
