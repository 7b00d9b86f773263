"""Random numbers depend only on the seed."""

import numpy as np
import pytest

from keras_attn.ops import random
from tests.backend import arrays, tensors


def seed(number):
    return tensors(np.array([number, 7], "uint32"))


@pytest.mark.parametrize(
    "draw",
    [
        lambda s: random.uniform((53, 31), s),
        lambda s: random.dropout(tensors(np.ones((53, 31), "float32")), 0.3, s),
    ],
    ids=["uniform", "dropout"],
)
def test_draws_depend_only_on_the_seed(draw):
    first = arrays(draw(seed(1)))
    np.testing.assert_array_equal(first, arrays(draw(seed(1))))
    assert not np.array_equal(first, arrays(draw(seed(2))))


def test_dropout_zeroes_at_its_rate_and_scales_the_others():
    found = arrays(random.dropout(tensors(np.ones((331, 307), "float32")), 0.3, seed(3)))
    np.testing.assert_allclose(np.unique(found), [0, 1 / 0.7], rtol=1e-6)
    np.testing.assert_allclose((found == 0).mean(), 0.3, atol=0.01)
