"""Ids outside a table: an error where they are known, the nearest id in compiled code."""

import numpy as np
import pytest

from keras_attn.ops.ids import check_ids
from tests.backend import arrays, compiled, tensors


@pytest.mark.parametrize("bad", [11, -1, 400])
def test_eager_ids_outside_are_named(bad):
    ids = np.array([[3, bad]], "int32")
    for given in (ids, tensors(ids)):
        with pytest.raises(ValueError, match=rf"`tokens` must be in \[0, 11\), got {bad}"):
            check_ids("tokens", given, 11)


def test_ids_inside_stay():
    np.testing.assert_array_equal(arrays(check_ids("ids", np.array([[0, 10]]), 11)), [[0, 10]])
    assert arrays(check_ids("ids", np.zeros((2, 0), "int32"), 11)).shape == (2, 0)


@pytest.mark.backends("tensorflow", "jax", reason="Keras compiles nothing on torch")
def test_compiled_code_takes_the_nearest_id():
    function = compiled(lambda ids: check_ids("ids", ids, 11), xla=True)
    found = arrays(function(tensors(np.array([-5, 3, 11, 900], "int32"))))
    np.testing.assert_array_equal(found, [0, 3, 10, 10])
