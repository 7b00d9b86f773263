"""A rebuilt model keeps its training state."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_attn

B, T, D = 4, 5, 12


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(lambda: keras.optimizers.Adam(0.05), id="adam"),
        pytest.param(
            lambda: keras.optimizers.SGD(0.3, momentum=0.9), id="momentum", marks=pytest.mark.slow
        ),
    ],
)
@pytest.mark.parametrize(
    "block", [pytest.param(False, marks=pytest.mark.slow_on("jax", "tensorflow")), True]
)
def test_an_upgrade_keeps_the_optimizer_state(block, optimizer):
    """Four epochs at once equal two, an upgrade, and two more."""
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(B, T, D)).astype("float32")
    target = rng.normal(size=(B, T, D)).astype("float32")

    def make():
        keras.utils.set_random_seed(1)
        inputs = keras.Input((T, D))
        if block:
            hub = pytest.importorskip("keras_hub").layers
            hidden = hub.TransformerEncoder(17, 3, name="block")(inputs)
        else:
            hidden = kl.MultiHeadAttention(3, 4, name="attention")(inputs, inputs)
        model = keras.Model(inputs, kl.Dense(D)(hidden))
        model.compile(optimizer(), "mse", metrics=["mae"])
        return model

    def train(model, epochs):
        return model.fit(batch, target, epochs=epochs, verbose=0, shuffle=False).history

    expected = train(make(), 4)["loss"]
    model = make()
    first = train(model, 2)["loss"]
    result = keras_attn.upgrade(model)
    assert result.model is not model and len(result.replaced) == 1
    assert int(result.model.optimizer.iterations) == 2
    history = train(result.model, 2)
    assert "mae" in history
    np.testing.assert_allclose([*first, *history["loss"]], expected, rtol=1e-4)
    assert int(model.optimizer.iterations) == 2
