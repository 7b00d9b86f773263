"""Projection is keras.layers.Dense; norms and positions are made of names and configurations."""

import keras
import numpy as np

from keras_attn.layers.sublayers import Projection
from tests.backend import arrays

INPUTS = np.random.default_rng(0).normal(size=(2, 5, 7)).astype("float32")


def test_it_is_the_dense_layer_of_keras():
    ours, theirs = Projection(3, activation="relu"), keras.layers.Dense(3, activation="relu")
    expected = arrays(theirs(INPUTS))
    ours.build(INPUTS.shape)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(arrays(ours(INPUTS)), expected, rtol=1e-6, atol=1e-6)


def test_lora_takes_part():
    layer = Projection(3)
    before = arrays(layer(INPUTS))
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(layer.lora_kernel_b + 1.0)
    assert not np.allclose(arrays(layer(INPUTS)), before)
