"""Position biases: ALiBi against its paper, T5's buckets against transformers."""

import numpy as np
import pytest
from keras import ops as kops

from keras_attn.ops.biases import PositionBias, alibi, alibi_slopes, relative_buckets
from tests.backend import arrays


def test_alibi_slopes_equal_the_paper():
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    sixteen = [2.0 ** (-i / 2) for i in range(1, 17)]
    np.testing.assert_allclose(alibi_slopes(16), sixteen)
    np.testing.assert_allclose(alibi_slopes(12), [*alibi_slopes(8), *sixteen[0:8:2]])


def test_alibi_is_minus_slope_times_distance():
    bias = PositionBias(alibi, (alibi_slopes(3),)).materialize(kops.arange(5) + 2, kops.arange(7))
    for n, i, j in np.ndindex(3, 5, 7):
        np.testing.assert_allclose(bias[n, i, j], -alibi_slopes(3)[n] * abs(i + 2 - j))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.slow_on("jax")
def test_relative_buckets_equal_transformers(bidirectional):
    torch = pytest.importorskip("torch")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    distances = np.arange(-300, 301)
    options = {"bidirectional": bidirectional, "num_buckets": 32, "max_distance": 128}
    expected = t5.T5Attention._relative_position_bucket(torch.tensor(distances), **options)
    found = relative_buckets(kops.convert_to_tensor(distances.astype("int32")), **options)
    np.testing.assert_array_equal(arrays(found), expected.numpy())
