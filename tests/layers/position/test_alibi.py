"""ALiBi against the paper."""

import numpy as np
import pytest

from keras_attn import layers
from tests.backend import arrays, tensors


def test_biases_follow_the_equation_of_the_paper():
    queries, keys = np.arange(2, 7), np.arange(7)
    found = arrays(layers.ALiBi(8)(*tensors([queries, keys])))
    slopes = 2.0 ** -np.arange(1, 9)
    expected = -slopes[:, None, None] * abs(queries[:, None] - keys)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_head_counts_between_powers_of_two_take_extra_slopes_of_the_next_power():
    found = arrays(layers.ALiBi(6)(*tensors([np.array([1]), np.array([0])])))[:, 0, 0]
    np.testing.assert_allclose(-found, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3], rtol=1e-6)


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match="`num_heads` must be a positive integer, got 0"):
        layers.ALiBi(0)
