"""AttentionDecoderCell: step by step in numpy, and in keras.layers.RNN."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_attn.layers import (
    AttentionDecoder,
    AttentionDecoderCell,
    BahdanauAttention,
    LuongAttention,
)

B, T, S, D, DM, U = 2, 5, 7, 3, 11, 13
RNG = np.random.default_rng(0)
INPUTS, MEMORY = RNG.normal(size=(B, T, D)), RNG.normal(size=(B, S, DM))
MEMORY_MASK = np.array([[1, 1, 1, 1, 0, 0, 0], [1] * 7], bool)


def tensor(x, dtype="float32"):
    return ops.convert_to_tensor(x, dtype)


def array(x):
    return np.float64(ops.convert_to_numpy(x))


CELLS = {
    "gru": lambda: keras.layers.GRUCell(U),
    "lstm": lambda: keras.layers.LSTMCell(U),
    "stack": lambda: keras.layers.StackedRNNCells(
        [keras.layers.LSTMCell(5), keras.layers.GRUCell(U)]
    ),
}
KINDS = {
    "bahdanau": lambda cell: AttentionDecoderCell(cell, BahdanauAttention(17)),
    "luong": lambda cell: AttentionDecoderCell(cell, LuongAttention(), query_state="current"),
    "local_m": lambda cell: AttentionDecoderCell(
        cell, LuongAttention(locality="local_m", window=1), query_state="current"
    ),
}


def built(kind="bahdanau", cell="gru"):
    layer = KINDS[kind](CELLS[cell]())
    layer.build((None, D), (None, None, DM))
    return layer


def start(cell, **kwargs):
    return cell.get_initial_state(
        memory=tensor(MEMORY), memory_mask=tensor(MEMORY_MASK, "bool"), **kwargs
    )


def numpy_decode(cell):
    """The recurrence of each paper, with the layer's own sublayers."""
    attention, inner = cell.attention, cell.cell
    mask = tensor(MEMORY_MASK, "bool")

    def attend(query, t):
        answer, weights = attention(
            tensor(query)[:, None],
            tensor(MEMORY),
            memory_mask=mask,
            query_offset=t,
            return_attention_scores=True,
        )
        return array(answer)[:, 0], array(weights)[:, 0]

    hidden, fed, outputs, alignments = np.zeros((B, U)), np.zeros((B, U)), [], []
    for t in range(T):
        if cell.query_state == "previous":
            context, weights = attend(hidden, t)
            x = np.concatenate([INPUTS[:, t], context], -1)
            hidden = array(inner(tensor(x), [tensor(hidden)])[0])
            outputs.append(np.concatenate([hidden, context], -1))
        else:
            x = np.concatenate([INPUTS[:, t], fed], -1)
            hidden = array(inner(tensor(x), [tensor(hidden)])[0])
            fed, weights = attend(hidden, t)
            outputs.append(fed)
        alignments.append(weights)
    return np.stack(outputs, 1), np.stack(alignments, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_follow_the_recurrence_of_the_paper(kind):
    cell = built(kind)
    outputs, weights = AttentionDecoder(cell)(
        tensor(INPUTS),
        tensor(MEMORY),
        memory_mask=tensor(MEMORY_MASK, "bool"),
        return_attention_scores=True,
    )
    want_outputs, want_weights = numpy_decode(cell)
    np.testing.assert_allclose(array(outputs), want_outputs, atol=1e-5)
    np.testing.assert_allclose(array(weights), want_weights, atol=1e-5)


PAIRS = [(kind, inner) for kind in KINDS for inner in CELLS]


@pytest.mark.parametrize(("kind", "inner"), PAIRS)
def test_keras_rnn_and_the_decoder_agree(kind, inner):
    cell = built(kind, inner)
    rnn = keras.layers.RNN(cell, return_sequences=True)
    by_rnn = rnn(tensor(INPUTS), initial_state=start(cell))
    by_decoder = AttentionDecoder(cell)(
        tensor(INPUTS), tensor(MEMORY), memory_mask=tensor(MEMORY_MASK, "bool")
    )
    np.testing.assert_allclose(array(by_rnn), array(by_decoder), atol=1e-6)


def test_keras_rnn_and_the_decoder_agree_with_an_inputs_mask():
    cell, mask = built(), np.ones((B, T), bool)
    mask[0, 3:] = False
    unroll = keras.backend.backend() == "jax"
    rnn = keras.layers.RNN(cell, return_sequences=True, unroll=unroll)
    by_rnn = rnn(tensor(INPUTS), initial_state=start(cell), mask=tensor(mask, "bool"))
    by_decoder = AttentionDecoder(cell)(
        tensor(INPUTS),
        tensor(MEMORY),
        inputs_mask=tensor(mask, "bool"),
        memory_mask=tensor(MEMORY_MASK, "bool"),
    )
    np.testing.assert_allclose(array(by_rnn), array(by_decoder), atol=1e-6)


def test_without_input_feeding_the_cell_ignores_the_attention():
    cell = AttentionDecoderCell(
        keras.layers.GRUCell(U), LuongAttention(combine="concatenate"), "current", False
    )
    outputs = AttentionDecoder(cell)(tensor(INPUTS), tensor(MEMORY))
    alone = keras.layers.RNN(cell.cell, return_sequences=True)(tensor(INPUTS))
    np.testing.assert_allclose(array(outputs)[..., DM:], array(alone), atol=1e-6)


def test_the_dropout_mask_of_the_cell_is_reset_after_each_call():
    cell = AttentionDecoderCell(
        keras.layers.GRUCell(U, dropout=0.5, recurrent_dropout=0.5, seed=1), BahdanauAttention(17)
    )
    cell.build((None, D), (None, None, DM))
    rnn = keras.layers.RNN(cell, return_sequences=True)
    decoder = AttentionDecoder(cell)
    runs = [
        array(rnn(tensor(INPUTS), initial_state=start(cell), training=True)),
        array(decoder(tensor(INPUTS), tensor(MEMORY), training=True)),
        array(decoder(tensor(INPUTS), tensor(MEMORY), training=True)),
    ]
    assert not np.allclose(runs[1], runs[2])
    assert cell.cell._dropout_mask is None
    still = [array(decoder(tensor(INPUTS), tensor(MEMORY))) for _ in range(2)]
    np.testing.assert_array_equal(*still)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((keras.layers.Dense(3), BahdanauAttention(3)), "`cell` must be a recurrent cell"),
        (
            (keras.layers.GRUCell(3), BahdanauAttention(3), "next"),
            "`query_state` must be one of previous, current, got 'next'",
        ),
    ],
)
def test_invalid_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        AttentionDecoderCell(*arguments)


def test_a_missing_memory_raises():
    cell = AttentionDecoderCell(keras.layers.GRUCell(3), BahdanauAttention(3))
    with pytest.raises(ValueError, match="`memory_shape` must be given"):
        keras.layers.RNN(cell)(tensor(INPUTS))
    with pytest.raises(ValueError, match="`memory` must be given"):
        keras.layers.RNN(built())(tensor(INPUTS))


def test_the_argument_query_is_deprecated():
    message = "`query` is deprecated: use `query_state`"
    with pytest.warns(DeprecationWarning, match=message):
        cell = AttentionDecoderCell(keras.layers.GRUCell(U), LuongAttention(), query="current")
    with pytest.warns(DeprecationWarning, match=message):
        assert cell.query == cell.query_state == "current"
    config = cell.get_config()
    config["query"] = config.pop("query_state")
    assert AttentionDecoderCell.from_config(config).query_state == "current"
