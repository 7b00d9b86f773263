"""The recurrent encoder-decoder: single steps, padding, saving."""

import keras
import numpy as np
import pytest

from keras_attn.layers import HardAttention
from keras_attn.models import rnn_attention
from tests.backend import computed, tensors

SOURCE = np.array([[5, 7, 11, 2, 0, 0], [3, 4, 9, 8, 6, 2]])
TARGET = np.array([[1, 13, 4, 8], [1, 5, 6, 7]])
ATTENTIONS = ["bahdanau", "luong", "local_p", HardAttention]
CELLS = {
    "gru": lambda: None,
    "stack": lambda: keras.layers.StackedRNNCells(
        [keras.layers.LSTMCell(3), keras.layers.GRUCell(7)]
    ),
}


def array(x):
    return keras.ops.convert_to_numpy(x)


def tokens(t):
    return keras.ops.convert_to_tensor(TARGET[:, t], "int32")


def make(attention="bahdanau", cell="gru"):
    return rnn_attention.encoder_decoder(
        17,
        19,
        embedding_dim=5,
        units=7,
        attention=attention if isinstance(attention, str) else attention(),
        cell=CELLS[cell](),
        attention_scores=True,
    )


def call(model, source=SOURCE, target=TARGET):
    return computed(model, {"source_ids": source, "target_ids": target})


ON_JAX = pytest.mark.slow_on("jax")
# JAX compiles each pair; there, each attention and each cell are in a fast one.
PAIRS = [
    pytest.param(attention, cell, marks=() if row % len(CELLS) == column else ON_JAX)
    for row, attention in enumerate(ATTENTIONS)
    for column, cell in enumerate(CELLS)
]


@pytest.mark.slow_on("jax")
@pytest.mark.parametrize(("attention", "cell"), PAIRS)
def test_step_by_step_equals_the_full_model(attention, cell):
    model = make(attention, cell)
    whole = call(model)
    state = computed(rnn_attention.start(model), SOURCE)
    step = rnn_attention.step(model)
    for t in range(TARGET.shape[1]):
        outputs = computed(step, {"token_ids": tokens(t), **tensors(state)})
        state = {name: outputs[name] for name in state}
        np.testing.assert_allclose(outputs["logits"], whole["logits"][:, t], atol=1e-5)
        np.testing.assert_allclose(
            outputs["attention_scores"], whole["attention_scores"][:, t], atol=1e-5
        )


@pytest.mark.parametrize("attention", ["bahdanau", "local_p"])
def test_extra_padding_does_not_change_the_logits_and_gets_zero_weight(attention):
    model = make(attention)
    whole = call(model)
    longer = call(model, np.pad(SOURCE, ((0, 0), (0, 3))), np.pad(TARGET, ((0, 0), (0, 2))))
    np.testing.assert_allclose(longer["logits"][:, :4], whole["logits"], atol=1e-5)
    assert not whole["attention_scores"][0, :, 4:].any()
    assert not longer["attention_scores"][:, 4:].any()


def test_later_tokens_do_not_change_earlier_logits():
    model, other = make("luong"), TARGET.copy()
    other[:, 2:] = 3
    np.testing.assert_array_equal(
        call(model)["logits"][:, :2], call(model, target=other)["logits"][:, :2]
    )


@pytest.mark.slow_on("jax")
def test_a_reloaded_model_and_its_step_compute_the_same(tmp_path):
    model = make()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(call(again)["logits"], call(model)["logits"], atol=1e-6)
    state = rnn_attention.start(again)(SOURCE)
    outputs = rnn_attention.step(again)({"token_ids": tokens(0), **state})
    np.testing.assert_allclose(array(outputs["logits"]), call(model)["logits"][:, 0], atol=1e-5)


@pytest.mark.backends("tensorflow", reason="a SavedModel")
def test_the_step_runs_as_a_saved_model(tmp_path):
    import tensorflow as tf

    model = make("luong")
    step, state = rnn_attention.step(model), rnn_attention.start(model)(SOURCE)
    inputs = {"token_ids": tokens(0), **state}
    step.export(tmp_path / "step", verbose=False)
    served = tf.saved_model.load(tmp_path / "step")
    np.testing.assert_allclose(
        array(served.serve(inputs)["logits"]), call(model)["logits"][:, 0], atol=1e-5
    )


def test_an_unknown_attention_raises():
    with pytest.raises(ValueError, match="one of bahdanau, luong, local_p, got 'self'"):
        make("self")
