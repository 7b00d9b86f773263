"""A small functional model of our layers trains with model.fit, saves and reloads."""

import keras
import numpy as np
import pytest

from keras_attn import layers

V, T, D = 17, 7, 12
PADDING = 0


def classifier():
    tokens = keras.Input((None,), dtype="int32")
    hidden = layers.TokenEmbedding(V, D, embeddings_initializer="normal", mask_zero=True)(tokens)
    hidden = layers.SinusoidalPositionEncoding()(hidden)
    hidden = layers.TransformerEncoderBlock(2, 19, dropout=0.1, position=layers.ALiBi(2))(hidden)
    hidden = layers.MultiHeadSelfAttention(2, position=layers.RotaryEmbedding())(hidden)
    return keras.Model(tokens, layers.ClassificationHead(2)(layers.SequencePooling()(hidden)))


def examples():
    """Token ids; the label says whether token 3 is among them."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, V, (64, T))
    tokens[::2, 2] = 3
    tokens[::3, 5:] = PADDING
    return tokens, (tokens == 3).any(axis=1).astype("int32")


# Keras compiles nothing on torch and everything on JAX.
XLA = pytest.param(True, marks=pytest.mark.slow)  # tests/ops/test_remat.py has a fast case
MODES = {"tensorflow": [False, XLA], "jax": [True], "torch": [False]}[keras.backend.backend()]


@pytest.mark.parametrize("jit_compile", MODES)
def test_a_model_learns_saves_and_reloads(jit_compile, tmp_path):
    model, (tokens, labels) = classifier(), examples()
    model.compile(
        keras.optimizers.Adam(5e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    history = model.fit(tokens, labels, epochs=30, batch_size=32, verbose=0).history
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    expected = model.predict(tokens, verbose=0)
    np.testing.assert_allclose(again.predict(tokens, verbose=0), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        again.evaluate(tokens, labels, verbose=0),
        model.evaluate(tokens, labels, verbose=0),
        rtol=1e-4,
    )


def test_the_padding_mask_reaches_every_layer_of_a_functional_model():
    model, (tokens, _) = classifier(), examples()
    longer = np.pad(tokens, [(0, 0), (0, 4)], constant_values=PADDING)
    np.testing.assert_allclose(
        model.predict(longer, verbose=0), model.predict(tokens, verbose=0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["token", "position"])
def test_adam_sums_the_gradients_of_a_repeated_row_before_squaring(kind):
    ids = keras.Input((None,), dtype="int32")
    if kind == "token":
        outputs = layers.TokenEmbedding(3, 1)(ids)
    else:
        zeros = keras.ops.zeros_like(ids, "float32")[:, :, None]
        outputs = layers.LearnedPositionEmbedding(3)(zeros, positions=ids)
    model = keras.Model(ids, outputs)
    optimizer = keras.optimizers.Adam(beta_2=0.5)
    model.compile(optimizer, lambda _, outputs: keras.ops.sum(outputs), jit_compile=False)
    model.train_on_batch(np.array([[1, 1, 2]]), np.zeros((1, 3, 1)))
    (velocity,) = (v for v in optimizer.variables if "velocity" in v.path)
    # The gradient is 2 for row 1 and 1 for row 2.
    np.testing.assert_allclose(keras.ops.convert_to_numpy(velocity)[:, 0], [0, 0.5 * 4, 0.5 * 1])
