"""ScalarMix against equation 1 of the ELMo paper in numpy."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_attn.layers import ScalarMix
from keras_attn.models import bert

L, B, T, D = 3, 2, 5, 7
RNG = np.random.default_rng(0)
STATES = [np.float32(RNG.normal(index, 1 + index, (B, T, D))) for index in range(L)]


def array(x):
    return ops.convert_to_numpy(x)


@pytest.mark.parametrize("normalize", [False, True])
def test_outputs_equal_numpy(normalize):
    layer = ScalarMix(normalize=normalize)
    layer.build([(B, T, D)] * L)
    scalars, gamma = RNG.normal(size=L), np.array(1.7)
    layer.set_weights([scalars, gamma])
    states = np.float64(STATES)
    if normalize:
        centred = states - states.mean(-1, keepdims=True)
        states = centred / np.sqrt(states.var(-1, keepdims=True) + 1e-12)
    shares = np.exp(scalars) / np.exp(scalars).sum()
    expected = gamma * np.einsum("l,lbtd->btd", shares, states)
    np.testing.assert_allclose(array(layer(STATES)), expected, atol=1e-5)


def test_a_new_layer_gives_the_mean():
    np.testing.assert_allclose(array(ScalarMix()(STATES)), np.mean(STATES, 0), atol=1e-6)


def test_mixes_the_hidden_states_of_an_encoder():
    size = {"vocabulary_size": 11, "hidden_dim": 6, "num_heads": 2, "intermediate_dim": 13}
    encoder = bert.encoder("bert_tiny", hidden_states=True, **size)
    mix = ScalarMix(name="mix")
    model = keras.Model(encoder.input, mix(encoder.output["hidden_states"]))
    ids = np.array([[1, 2, 3]])
    inputs = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": ids > 0}
    states = [array(state) for state in encoder(inputs)["hidden_states"]]
    assert len(states) == len(mix.get_weights()[0]) == 3
    np.testing.assert_allclose(array(model(inputs)), np.mean(states, 0), atol=1e-6)


def test_an_input_that_is_not_a_list_raises():
    text = r"`inputs` must be a list of tensors \[batch, length, width\], got shape \(2, 5, 7\)"
    with pytest.raises(ValueError, match=text):
        ScalarMix()(STATES[0])


def test_unequal_shapes_raise():
    text = r"`inputs` must all have the same shape, got \(2, 5, 7\), \(2, 4, 7\)"
    with pytest.raises(ValueError, match=text):
        ScalarMix()([STATES[0], STATES[1][:, :4]])
