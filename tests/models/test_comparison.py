"""The comparison of an upgraded model with the original, and what happens if they differ."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_attn
from keras_attn import layers
from keras_attn.models import comparison, exchange
from tests.backend import arrays

V, D, N, H = 23, 12, 3, 4
IDS = np.array([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 0, 0, 0]], "int32")


def classifier(name="attention", mask_zero=True):
    """A tutorial's classifier: the attention drops the mask, and the pooling reads padding."""
    ids = keras.Input((None,), dtype="int32")
    hidden = kl.Embedding(V, D, mask_zero=mask_zero)(ids)
    attended = kl.MultiHeadAttention(N, H, name=name)(hidden, hidden)
    hidden = kl.LayerNormalization()(keras.ops.add(hidden, attended))
    model = keras.Model(ids, kl.Dense(2)(keras.ops.mean(hidden, axis=1)))
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


def test_unmasked_pooling_is_reported_and_keras_masks_reproduce_it():
    model = classifier()
    expected = arrays(model(IDS))
    result = keras_attn.upgrade(model)
    assert result.replaced == ("attention",) and result.difference < 1e-5
    assert result.padding_difference > 1e-3
    line = str(result).splitlines()[-1]
    assert line.startswith("with padding on the right and left they differ by ")
    assert line.endswith('masks="keras" leaves the same')
    assert abs(arrays(result.model(IDS)) - expected).max() > 1e-3
    exact = keras_attn.upgrade(model, masks="keras")
    assert exact.replaced == ("attention",) and exact.padding_difference is None
    layer = exact.model.get_layer("attention")
    assert type(layer) is kl.MultiHeadAttention and exchange.is_ours(layer)
    np.testing.assert_allclose(arrays(exact.model(IDS)), expected, rtol=1e-5, atol=1e-5)
    unmasked = keras_attn.upgrade(classifier(mask_zero=False))
    assert unmasked.padding_difference is None and unmasked.difference < 1e-5


def test_outputs_at_padding_do_not_count():
    ids = keras.Input((None,), dtype="int32")
    hidden = kl.Embedding(V, D)(ids)
    at_padding = keras.ops.expand_dims(keras.ops.cast(keras.ops.equal(ids, 0), "float32"), -1)
    changed = keras.Model(ids, hidden + 5 * at_padding)
    compared = comparison.Comparison(keras.Model(ids, hidden))
    assert compared.differences(changed) == [0, 0, 0]
    assert abs(arrays(changed(IDS)) - arrays(keras.Model(ids, hidden)(IDS))).max() == 5


def test_padding_on_the_left_is_compared():
    """A causal mask hides padding on the right from the other positions, and not this one."""
    ids = keras.Input((None,), dtype="int32")
    hidden = kl.Embedding(V, D, mask_zero=True)(ids)
    for index in range(2):
        attention = kl.MultiHeadAttention(N, H, name=f"attention_{index}")
        hidden = kl.Add()([hidden, attention(hidden, hidden, use_causal_mask=True)])
    model = keras.Model(ids, hidden)
    rows = keras.utils.pad_sequences([[3, 1, 4, 1, 5, 9], [2, 6]])
    expected = arrays(model(rows))
    result = keras_attn.upgrade(model)
    assert len(result.replaced) == 2 and not result.left and result.difference < 1e-5
    assert result.padding_difference > 1e-3
    assert "with padding on the left they differ by " in str(result)
    assert abs(arrays(result.model(rows)) - expected)[:, 4:].max() > 1e-3  # not at padding
    exact = keras_attn.upgrade(model, masks="keras")
    assert exact.padding_difference is None and exact.difference < 1e-5
    np.testing.assert_allclose(arrays(exact.model(rows)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bool", "int32", "float32", "vectors"])
def test_padding_by_a_mask_of_any_dtype_is_compared(dtype):
    """A mask that is an input, or that the model computes from vectors of zeros."""
    hidden = inputs = keras.Input((None, D))
    if dtype == "vectors":
        mask = keras.ops.any(keras.ops.not_equal(inputs, 0), axis=-1)
    else:
        mask = keras.Input((None,), dtype=dtype, name="padding_mask")
        inputs = [inputs, mask]
    pairs = keras.ops.logical_and(mask[:, :, None], mask[:, None])
    attention = kl.MultiHeadAttention(N, H, name="attention")
    hidden = attention(hidden, hidden, attention_mask=pairs)
    result = keras_attn.upgrade(keras.Model(inputs, keras.ops.mean(hidden, axis=1)))
    assert result.replaced == ("attention",) and result.difference < 1e-5
    assert result.padding_difference > 1e-3


@pytest.mark.parametrize("item", [np.s_[:, 0], np.s_[:, 0, :]], ids=str)
def test_a_first_position_that_is_read_is_no_padding(item):
    """Keras' attention and ours differ there if it is padding."""
    ids = keras.Input((None,), dtype="int32")
    hidden = kl.Embedding(V, D, mask_zero=True)(ids)
    encoder = keras.Model(ids, kl.MultiHeadAttention(N, H, name="attention")(hidden, hidden))
    inputs = keras.Input((None,), dtype="int32")
    result = keras_attn.upgrade(keras.Model(inputs, encoder(inputs)[item]))
    assert len(result.replaced) == 1 and not result.left
    assert result.difference < 1e-5 and result.padding_difference is None


def test_states_are_kept_and_compare_equal():
    inputs = keras.Input(batch_shape=(2, 5, D))
    memory = kl.LSTM(H, stateful=True)
    noise = Noise()
    attended = kl.MultiHeadAttention(N, H, name="attention")(inputs, inputs)
    result = keras_attn.upgrade(keras.Model(inputs, memory(noise(attended))))
    assert result.replaced == ("attention",) and result.difference < 1e-5 and not result.left
    assert [abs(arrays(state)).max() for state in memory.states] == [0, 0]
    assert list(arrays(noise.seeds.state)) == [5, 0]


def test_outputs_that_differ_from_run_to_run_are_not_compared():
    inputs = keras.Input((5, D))
    hidden = Noise(counts=True)(kl.MultiHeadAttention(N, H, name="attention")(inputs, inputs))
    result = keras_attn.upgrade(keras.Model(inputs, hidden))
    assert result.replaced == ("attention",) and result.difference is None and not result.left
    message = "outputs were not compared: two runs of the unchanged model differ"
    assert str(result).splitlines()[-1] == message


class Noise(kl.Layer):
    """Other outputs in each run, from seeds that Keras knows or from a count that it does not."""

    def __init__(self, counts=False):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(5)
        self.runs, self.counts = 0, counts

    def call(self, x):
        self.runs += self.counts
        return x + self.runs + keras.random.normal(keras.ops.shape(x), seed=self.seeds)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize(
    "call", [{}, {"use_causal_mask": True}, {"return_attention_scores": True}], ids=str
)
@pytest.mark.parametrize("grouped", [False, True])
def test_keras_masks_reproduce_keras_exactly(call, dropout, grouped):
    query, value = (
        np.random.default_rng(0).normal(size=(2, n, D)).astype("float32") for n in (5, 7)
    )
    mask = np.random.default_rng(1).random((2, 5, 7)) < 0.5
    mask[0, 2] = False
    inputs = [keras.Input(x.shape[1:]) for x in (query, value)]
    masks = keras.Input(mask.shape[1:], dtype="bool")
    options = {"dropout": dropout, "name": "attention"}
    layer = kl.GroupQueryAttention(H, 6, 3, **options) if grouped else None
    layer = layer or kl.MultiHeadAttention(N, H, **options)
    model = keras.Model([*inputs, masks], layer(*inputs, attention_mask=masks, **call))
    expected = arrays(model([query, value, mask]))
    result = keras_attn.upgrade(model, masks="keras")
    assert result.replaced == ("attention",)
    got = arrays(result.model([query, value, mask]))
    for ours, theirs in zip(keras.tree.flatten(got), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [kl.Attention, kl.AdditiveAttention])
def test_keras_masks_leave_layers_without_an_exact_copy(kind):
    inputs = keras.Input((5, D))
    model = keras.Model(inputs, kind(name="luong")([inputs, inputs]))
    result = keras_attn.upgrade(model, masks="keras")
    reason = 'with masks="keras" it is its only exact copy: keep it'
    assert result.left == {"luong": reason} and not result.replaced
    with pytest.raises(ValueError, match="`masks` must be one of exact, keras, got 'ours'"):
        keras_attn.upgrade(model, masks="ours")


class Noisy(kl.Layer):
    """A layer whose code depends on the class of its sublayer, so that ours changes its outputs."""

    def __init__(self):
        super().__init__()
        self.inner = kl.MultiHeadAttention(N, H)

    def build(self, shape):
        self.inner.build(shape, shape)

    def call(self, x):
        factor = 1.5 if isinstance(self.inner, layers.MultiHeadAttention) else 1.0
        return factor * self.inner(x, x)


def test_only_layers_that_change_the_outputs_are_restored():
    inputs = keras.Input((None, D))
    hidden = kl.MultiHeadAttention(N, H, name="good")(inputs, inputs)
    noisy = Noisy()
    other = Noisy()
    model = keras.Model(inputs, other(noisy(hidden)))
    result = keras_attn.upgrade(model)
    assert result.replaced == ("good",) and result.difference < 1e-5
    assert set(result.left) == {f"{layer.name}/{layer.inner.name}" for layer in (noisy, other)}
    for reason in result.left.values():
        assert reason.startswith("with ours the outputs of the model differ by ")
        assert reason.endswith("keep it, or compare the two layers on your data")
    assert type(noisy.inner) is kl.MultiHeadAttention


def test_generated_inputs_match_the_model_inputs():
    ids, segments = (keras.Input((None,), dtype="int32", name=name) for name in ("ids", "segments"))
    mask = keras.Input((None,), dtype="bool", name="mask")
    image = keras.Input((None, None, 3), name="image")
    table = kl.Embedding(V, D)
    inner = keras.Model([ids, segments], table(ids) + kl.Embedding(2, D)(segments))
    model = keras.Model(
        {"ids": ids, "segments": segments, "mask": mask, "image": image},
        [inner([ids, segments]), keras.ops.cast(mask, "int32"), image],
    )
    made = comparison.make_inputs(model)
    assert made["ids"].max() > 9 and made["ids"].min() > 0
    assert set(np.unique(made["segments"])) == {1} and made["mask"].all()
    assert made["image"].shape == (2, 32, 32, 3)
    assert comparison.Comparison(model).differences(model) == [0.0, 0.0, 0.0]


def test_an_invalid_batch_raises_but_a_generated_one_does_not():
    inputs = keras.Input((None, D))
    hidden = kl.MultiHeadAttention(N, H, name="attention")(inputs, inputs)
    model = keras.Model(inputs, kl.Reshape((4 * D,))(hidden))
    result = keras_attn.upgrade(model)
    assert result.replaced == ("attention",) and result.difference is None
    batch = np.ones((2, 4, D), "float32")
    assert keras_attn.upgrade(model, batch).difference < 1e-5
    with pytest.raises(Exception, match="(?i)reshape|shape"):
        keras_attn.upgrade(model, batch[:, :3])
    for empty in (batch[:0], batch[:, :0]):
        with pytest.raises(ValueError, match=r"`inputs` must not be empty, got the shape \("):
            keras_attn.upgrade(model, empty)
