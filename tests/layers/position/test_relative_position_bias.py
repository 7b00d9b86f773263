"""T5's buckets against transformers."""

import keras
import numpy as np
import pytest

from keras_attn import layers
from tests.backend import arrays, gradients, tensors


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 20)])
def test_buckets_equal_transformers(bidirectional, buckets, distance):
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    queries, keys = np.arange(0, 211), np.arange(0, 307)
    table = np.arange(buckets, dtype="float32")[:, None]
    layer = layers.RelativePositionBias(
        1, bidirectional=bidirectional, num_buckets=buckets, max_distance=distance
    )
    layer.build()
    layer.set_weights([table])
    expected = T5Attention._relative_position_bucket(
        torch.tensor(keys[None] - queries[:, None]), bidirectional, buckets, distance
    )
    found = arrays(layer(*tensors([queries, keys])))[0]
    np.testing.assert_array_equal(found, expected.cpu().numpy())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_heads": 0}, "`num_heads` must be a positive integer, got 0"),
        ({"num_buckets": 0}, "`num_buckets` must be a positive integer, got 0"),
        ({"num_buckets": 7}, "`num_buckets` must be even where `bidirectional` is True, got 7"),
    ],
)
def test_invalid_arguments_raise(options, text):
    with pytest.raises(ValueError, match=text):
        layers.RelativePositionBias(**{"num_heads": 3, **options})


def test_the_gradient_of_a_bucket_is_summed_in_float32():
    """A sum of ones stands still at 256 in bfloat16."""
    layer = layers.RelativePositionBias(num_heads=1, num_buckets=4, dtype="mixed_bfloat16")
    layer.build()
    places = np.arange(80)

    def loss(value):
        with keras.StatelessScope(state_mapping=[(layer.table, value)]):
            return keras.ops.sum(layer(places, places))

    (found,) = gradients(loss, np.zeros((4, 1), "float32"))
    distance = places - places[:, None]
    expected = [(distance == 0).sum(), (distance < 0).sum(), 0, (distance > 0).sum()]
    assert found[:, 0].tolist() == expected
