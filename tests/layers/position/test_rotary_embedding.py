"""RotaryEmbedding: its offset and its errors; its numbers are in tests/ops."""

import json

import keras
import numpy as np
import pytest

from keras_attn import layers, ops
from tests.backend import arrays

INPUTS = np.random.default_rng(0).normal(size=(2, 7, 3, 8)).astype("float32")


def test_an_offset_continues_a_shorter_row():
    layer = layers.RotaryEmbedding()
    parts = [arrays(layer(INPUTS[:, :3])), arrays(layer(INPUTS[:, 3:], offset=np.int64(3)))]
    np.testing.assert_allclose(
        np.concatenate(parts, 1), arrays(layer(INPUTS)), rtol=1e-5, atol=1e-5
    )


def test_invalid_arguments_raise():
    for fraction in (0, 1.5):
        message = rf"`rotary_fraction` must be in \(0, 1\], got {fraction}"
        with pytest.raises(ValueError, match=message):
            layers.RotaryEmbedding(rotary_fraction=fraction)
    with pytest.raises(ValueError, match="`scaling` must be positive, got 0"):
        layers.RotaryEmbedding(scaling=0)
    with pytest.raises(ValueError, match="the rotated width must be even, got 3 of head width 8"):
        layers.RotaryEmbedding(rotary_fraction=0.4)(INPUTS)


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: layers.MultiHeadSelfAttention(4, **options),
        lambda **options: layers.TransformerEncoderBlock(4, 5, **options),
        lambda **options: layers.MultiHeadAttention(4, 3, **options),
    ],
    ids=["self-attention", "block", "drop-in"],
)
def test_an_odd_head_width_raises_in_a_symbolic_call(make):
    inputs = keras.Input((5, 12))
    layer = make(position=layers.RotaryEmbedding())
    values = [inputs] * (1 + isinstance(layer, layers.MultiHeadAttention))
    with pytest.raises(ValueError, match="the rotated width must be even, got 3 of head width 3"):
        layer(*values)


def test_the_argument_share_is_deprecated():
    with pytest.warns(DeprecationWarning, match="`share` is deprecated: use `rotary_fraction`"):
        layer = layers.RotaryEmbedding(share=0.5)
    assert layer.rotary_fraction == 0.5 and "share" not in layer.get_config()
    with pytest.warns(DeprecationWarning, match="`share` is deprecated: use `rotary_fraction`"):
        assert layer.share == 0.5
    assert layers.RotaryEmbedding.from_config({"share": 0.25}).rotary_fraction == 0.25


@pytest.mark.parametrize(
    "scaling",
    [ops.NtkScaling(3.5), ops.YarnScaling(4.0, 30), ops.Llama3Scaling(8.0, 30)],
    ids=lambda scaling: type(scaling).__name__,
)
def test_scaled_rotations_equal_complex_numbers(scaling):
    """At positions that are given, before and after the layer is saved."""
    where = np.array([[5, 0, 1, 2, 90, 91, 92], [0, 1, 2, 3, 3, 3, 4]])
    layer = layers.RotaryEmbedding(100.0, rotary_fraction=0.75, scaling=scaling)
    turn = scaling.magnitude * np.exp(1j * where[..., None] * scaling.frequencies(6, 100.0))
    turned = (INPUTS[..., :3] + 1j * INPUTS[..., 3:6]) * turn[:, :, None]
    expected = np.concatenate([turned.real, turned.imag, INPUTS[..., 6:]], -1)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    for each in (layer, keras.saving.deserialize_keras_object(config)):
        found = each(INPUTS, positions=keras.ops.convert_to_tensor(where))
        np.testing.assert_allclose(arrays(found), expected, rtol=1e-4, atol=2e-5)
    shifted = layer(INPUTS, offset=2, positions=keras.ops.convert_to_tensor(where[1] - 2))
    np.testing.assert_allclose(arrays(shifted)[1], expected[1], rtol=1e-4, atol=2e-5)
    with pytest.raises(ValueError, match=r"`positions` must .* got shape \(6,\)"):
        layer(INPUTS, positions=keras.ops.arange(6))
