"""A rebuilt model keeps its training state, and what is frozen."""

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


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("unfrozen", ["attention", "top"])
def test_a_frozen_model_with_an_unfrozen_layer_stays_so(sequential, unfrozen):
    inputs = keras.Input((T, D))
    hidden = kl.Dense(D, name="dense")(inputs)
    hidden = kl.MultiHeadAttention(3, 4, name="attention")(hidden, hidden)
    base = keras.Model(inputs, kl.Dense(D, name="top")(hidden), name="base")
    base.trainable = False
    base.get_layer(unfrozen).trainable = True
    outer, head = keras.Input((T, D)), kl.Dense(1)
    if sequential:
        model = keras.Sequential([outer, base, head])
    else:
        model = keras.Model(outer, head(base(outer)))
    expected = [id(weight) for weight in model.trainable_weights]
    assert len(expected) == {"attention": 10, "top": 4}[unfrozen]
    result = keras_attn.upgrade(model)
    assert result.replaced == ("base/attention",)
    assert [id(weight) for weight in model.trainable_weights] == expected
    assert [id(weight) for weight in result.model.trainable_weights] == expected
    rebuilt = result.model.get_layer("base")
    assert not rebuilt.trainable and rebuilt.get_layer(unfrozen).trainable
    whole = keras_attn.upgrade(base).model  # the outermost model is frozen
    assert not whole.trainable and not whole.trainable_weights
    assert [id(w) for w in model.trainable_weights] == expected
    assert whole.get_layer(unfrozen).trainable_weights


@pytest.mark.parametrize("unfrozen", ["attention", "output"])
def test_a_frozen_block_with_an_unfrozen_layer_stays_so(unfrozen):
    hub = pytest.importorskip("keras_hub").layers
    inputs = keras.Input((T, D))
    block = hub.TransformerEncoder(17, 3, name="block")
    model = keras.Model(inputs, kl.Dense(1)(block(inputs)))
    block.trainable = False
    if unfrozen == "attention":
        block._self_attention_layer.trainable = True
    else:
        block._feedforward_output_dense.trainable = True
    expected = len(model.trainable_weights)
    assert expected == {"attention": 10, "output": 4}[unfrozen]
    result = keras_attn.upgrade(model)
    assert result.replaced == ("block",) and len(result.model.trainable_weights) == expected
    assert not result.model.get_layer("block").trainable_weights


def test_an_own_weight_that_was_frozen_can_be_trained_again():
    inputs = keras.Input((T, D))
    layer = kl.Attention(use_scale=True, score_mode="concat", name="attention")
    model = keras.Model(inputs, layer([inputs, inputs]))
    layer.trainable = False
    ours = keras_attn.upgrade(model).model.get_layer("attention")
    assert ours is not layer and not ours.trainable_weights
    assert not any(weight.trainable for weight in layer.weights)
    ours.trainable = True
    names = [weight.name for weight in ours.trainable_weights]
    assert names == ["scale", "concat_score_weight"]
