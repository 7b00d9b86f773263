"""The cache against numpy."""

import numpy as np

from keras_attn.ops import cache
from tests.backend import arrays, tensors

B, L, K, H = 3, 7, 2, 5
RNG = np.random.default_rng(0)
KEY, VALUE = (RNG.normal(size=(B, 2, K, H)).astype("float32") for _ in range(2))


def filled():
    empty = cache.create(B, L, K, H)
    return cache.append(empty, *tensors([KEY, VALUE]), tensors(np.array(3, "int32")))


def test_appended_keys_and_values_are_read_at_their_index():
    key, value = arrays(cache.read(filled()))
    for found, given in ((key, KEY), (value, VALUE)):
        assert found.shape == (B, L, K, H)
        np.testing.assert_array_equal(found[:, 3:5], given)
        np.testing.assert_array_equal(np.delete(found, [3, 4], axis=1), 0)


def test_reorder_gathers_rows_by_beam():
    key, _ = arrays(cache.read(cache.reorder(filled(), tensors(np.array([2, 0, 0])))))
    np.testing.assert_array_equal(key[:, 3:5], KEY[[2, 0, 0]])
