"""RotaryEmbedding: its offset and its errors; its numbers are in tests/ops."""

import numpy as np
import pytest

from keras_attn import layers
from tests.backend import arrays

INPUTS = np.random.default_rng(0).normal(size=(2, 7, 3, 8)).astype("float32")


def test_an_offset_goes_on_where_the_row_ended():
    layer = layers.RotaryEmbedding()
    parts = [arrays(layer(INPUTS[:, :3])), arrays(layer(INPUTS[:, 3:], offset=3))]
    np.testing.assert_allclose(
        np.concatenate(parts, 1), arrays(layer(INPUTS)), rtol=1e-5, atol=1e-5
    )


def test_bad_arguments_are_named():
    for share in (0, 1.5):
        with pytest.raises(ValueError, match=rf"`share` must be in \(0, 1\], got {share}"):
            layers.RotaryEmbedding(share=share)
    with pytest.raises(ValueError, match="`scaling` must be positive, got 0"):
        layers.RotaryEmbedding(scaling=0)
    with pytest.raises(ValueError, match="the rotated width must be even, got 3 of head width 8"):
        layers.RotaryEmbedding(share=0.4)(INPUTS)
