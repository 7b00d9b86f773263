"""LanguageModelHead against numpy."""

import numpy as np
import pytest

from keras_attn import layers
from tests import oracles
from tests.backend import arrays, randomize, weights_of

RNG = np.random.default_rng(0)
INPUTS, MATRIX = (RNG.normal(size=s).astype("float32") for s in ((2, 5, 7), (13, 7)))


def rms(x, weights):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * weights["norm/scale"]


NORMS = {
    None: lambda x, weights: x,
    "layer": lambda x, w: oracles.layer_norm(x, w["norm/gamma"], w["norm/beta"], 1e-3),
    "rms": rms,
}


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_logits_are_the_product_with_the_embedding_matrix(norm, use_bias):
    head = layers.LanguageModelHead(norm, layer_norm_epsilon=1e-3, use_bias=use_bias)
    head.build(INPUTS.shape, MATRIX.shape)
    weights = weights_of(randomize(head))
    expected = NORMS[norm](INPUTS.astype("float64"), weights) @ MATRIX.T + weights.get("bias", 0)
    np.testing.assert_allclose(arrays(head(INPUTS, MATRIX)), expected, rtol=1e-4, atol=1e-4)


def test_invalid_input_raises():
    with pytest.raises(
        ValueError, match="`norm` must be one of layer, layer_no_bias, rms, got 'batch'"
    ):
        layers.LanguageModelHead("batch")
    with pytest.raises(ValueError, match="`embedding_matrix` must have shape .* got shape"):
        layers.LanguageModelHead()(INPUTS, MATRIX[:, :4])
