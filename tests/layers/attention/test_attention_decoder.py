"""AttentionDecoder in models: masks, saving, graphs, gradients."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_attn.layers import (
    AttentionDecoder,
    AttentionDecoderCell,
    BahdanauAttention,
    HardAttention,
    LuongAttention,
)

B, T, S, D, DM, U = 2, 5, 7, 3, 11, 13
RNG = np.random.default_rng(0)
INPUTS, MEMORY = RNG.normal(size=(B, T, D)), RNG.normal(size=(B, S, DM))
INPUTS_MASK = np.array([[1, 1, 1, 0, 0], [1] * 5], bool)
MEMORY_MASK = np.array([[1, 1, 1, 1, 0, 0, 0], [1] * 7], bool)

ATTENTIONS = {
    "bahdanau": (lambda: BahdanauAttention(17), "previous"),
    "luong": (lambda: LuongAttention(), "current"),
    "local_p": (lambda: LuongAttention(locality="local_p", window=2), "current"),
    "hard": (lambda: HardAttention(), "previous"),
}


def tensor(x, dtype="float32"):
    return ops.convert_to_tensor(x, dtype)


def array(x):
    return ops.convert_to_numpy(x)


def make(name="bahdanau", **kwargs):
    attention, query = ATTENTIONS[name]
    cell = keras.layers.StackedRNNCells([keras.layers.GRUCell(5), keras.layers.LSTMCell(U)])
    return AttentionDecoder(AttentionDecoderCell(cell, attention(), query), **kwargs)


def call(layer, inputs=INPUTS, memory=MEMORY, **kwargs):
    return layer(
        tensor(inputs),
        tensor(memory),
        inputs_mask=tensor(INPUTS_MASK[:, : inputs.shape[1]], "bool"),
        memory_mask=tensor(MEMORY_MASK, "bool"),
        **kwargs,
    )


def test_draws_depend_on_the_seed_of_the_attention():
    def contexts(seed):
        attention = HardAttention(seed=seed)
        layer = AttentionDecoder(AttentionDecoderCell(keras.layers.GRUCell(U), attention))
        call(layer)
        for weight in layer.trainable_variables:
            weight.assign(ops.full(weight.shape, 0.1))
        return array(call(layer, training=True))

    same = [contexts(seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(same[0], same[1])
    assert np.abs(same[0] - same[2]).max() > 1e-3


def model(layer):
    widths = {"x": D, "memory": DM}
    inputs = {name: keras.Input((None, width), name=name) for name, width in widths.items()}
    x = keras.layers.Masking()(inputs["x"])
    memory = keras.layers.Masking()(inputs["memory"])
    outputs, weights = layer(x, memory, return_attention_scores=True)
    return keras.Model(inputs, {"outputs": outputs, "weights": weights})


def data():
    return {
        "x": np.float32(INPUTS * INPUTS_MASK[..., None]),
        "memory": np.float32(MEMORY * MEMORY_MASK[..., None]),
    }


@pytest.mark.parametrize("name", ATTENTIONS)
def test_returning_attention_weights_does_not_change_the_output(name):
    layer = make(name)
    plain = array(call(layer))
    outputs, weights = call(layer, return_attention_scores=True)
    np.testing.assert_array_equal(array(outputs), plain)
    weights = array(weights)
    assert weights.shape == (B, T, S)
    assert not weights[0, 3:].any()
    assert not weights[0, :, 4:].any()


def test_masked_steps_change_no_state_and_repeat_the_output():
    layer = make()
    outputs = array(call(layer))
    np.testing.assert_array_equal(outputs[0, 3:], outputs[0, [2, 2]])
    short = array(call(layer, INPUTS[:, :3]))
    np.testing.assert_allclose(outputs[:, :3], short, atol=1e-6)


def test_masked_memory_positions_do_not_change_the_output():
    layer, other = make(), MEMORY.copy()
    other[0, 4:] = 9.0
    np.testing.assert_array_equal(array(call(layer)), array(call(layer, memory=other)))


def test_the_initial_state_is_used():
    layer = make()
    states = [RNG.normal(size=(B, n)) for n in (5, U, U)]
    state = [tensor(states[0]), [tensor(states[1]), tensor(states[2])]]
    first = call(layer, initial_state=state)
    assert not np.allclose(array(first), array(call(layer)))
    zeros = keras.tree.map_structure(ops.zeros_like, state)
    np.testing.assert_allclose(
        array(call(layer, initial_state=zeros)), array(call(layer)), atol=1e-6
    )


@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_functional_model_uses_masks_and_can_be_reloaded(name, tmp_path):
    layer = make(name)
    functional = model(layer)
    assert functional.output["outputs"].shape == (None, None, layer.cell.output_size)
    assert functional.output["weights"].shape == (None, None, None)
    want = functional(data())
    outputs, weights = call(layer, return_attention_scores=True)
    np.testing.assert_allclose(array(want["outputs"]), array(outputs), atol=1e-6)
    np.testing.assert_allclose(array(want["weights"]), array(weights), atol=1e-6)
    functional.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")(data())
    np.testing.assert_allclose(array(again["outputs"]), array(want["outputs"]), atol=1e-6)
    np.testing.assert_allclose(array(again["weights"]), array(want["weights"]), atol=1e-6)


# Keras compiles everything on JAX and nothing on torch.
MODES = ["auto"]
if keras.backend.backend() == "tensorflow":
    MODES = [pytest.param(False, marks=pytest.mark.slow), True]


@pytest.mark.parametrize("name", ["bahdanau", pytest.param("local_p", marks=pytest.mark.slow)])
@pytest.mark.parametrize("jit", MODES)
def test_fit_with_dropout_updates_every_weight(jit, name):
    attention, query = ATTENTIONS[name]
    cell = keras.layers.GRUCell(U, dropout=0.2, recurrent_dropout=0.2)
    decoder = AttentionDecoder(AttentionDecoderCell(cell, attention(), query))
    functional = model(decoder)
    before = [array(w) for w in functional.trainable_variables]
    functional.compile("adam", {"outputs": "mse", "weights": None}, jit_compile=jit)
    targets = np.ones((B, T, decoder.cell.output_size), "float32")
    functional.fit(data(), {"outputs": targets}, epochs=2, verbose=0)
    for weight, old in zip(functional.trainable_variables, before, strict=True):
        assert not np.array_equal(array(weight), old), weight.path


@pytest.mark.slow_on("tensorflow")
def test_hard_attention_samples_at_every_step():
    layer = make("hard")
    same = np.repeat(INPUTS[:, :1], 40, axis=1)
    memory = RNG.normal(size=(B, S, DM)) * 1e-3
    _, weights = layer(tensor(same), tensor(memory), return_attention_scores=True, training=True)
    assert len(set(array(weights)[0].argmax(-1))) > 1
    functional = model(layer)
    functional.compile("sgd", {"outputs": "mse", "weights": None})
    functional.fit(data(), {"outputs": np.ones((B, T, U + DM), "float32")}, verbose=0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_outputs_are_finite(policy):
    layer = make("local_p", dtype=policy)
    outputs, weights = call(layer, return_attention_scores=True)
    assert np.isfinite(array(outputs)).all()
    assert keras.backend.standardize_dtype(weights.dtype) == "float32"


@pytest.mark.backends("tensorflow", reason="a TensorFlow graph")
@pytest.mark.parametrize(
    "name",
    ["local_p", "hard", *(pytest.param(n, marks=pytest.mark.slow) for n in ("bahdanau", "luong"))],
)
def test_eager_graph_xla_and_saved_model_agree(name, tmp_path):
    import tensorflow as tf

    functional = model(make(name))
    want = array(functional(data())["outputs"])
    tensors = {k: tf.constant(v) for k, v in data().items()}
    for jit in (False, True):
        compiled = tf.function(functional, jit_compile=jit)
        np.testing.assert_allclose(array(compiled(tensors)["outputs"]), want, atol=1e-5)
    functional.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(array(served.serve(tensors)["outputs"]), want, atol=1e-5)


def test_the_cell_must_be_an_attention_decoder_cell():
    with pytest.raises(ValueError, match="`cell` must be an AttentionDecoderCell, got"):
        AttentionDecoder(keras.layers.GRUCell(3))
