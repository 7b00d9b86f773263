"""Captured attention weights equal those of the layers, nested or not."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_attn import layers
from keras_attn.models import bert, bert_tasks, rnn_attention, sizes, transformer
from keras_attn.visualization import attention_model
from tests.backend import arrays

TINY = sizes.BertSize(
    num_layers=2, hidden_dim=12, num_heads=3, intermediate_dim=7, vocabulary_size=29, max_length=11
)


def assert_close(found, expected, atol):
    np.testing.assert_allclose(arrays(found), arrays(expected), atol=atol)


def bert_inputs(shape=(2, 7)):
    ids = np.random.default_rng(3).integers(29, size=shape)
    return {
        "token_ids": ids,
        "segment_ids": 0 * ids,
        "padding_mask": np.arange(shape[-1]) < ids + 4,
    }


def test_captured_weights_of_an_encoder_equal_those_of_its_blocks():
    model = bert.encoder(TINY)
    inputs = bert_inputs()
    captured = attention_model(model)(inputs)
    hidden = model.get_layer("embedding")(inputs["token_ids"], inputs["segment_ids"])
    for name in ("block_0", "block_1"):
        hidden, expected = model.get_layer(name)(
            hidden, mask=ops.convert_to_tensor(inputs["padding_mask"]), return_attention_scores=True
        )
        assert captured[name].shape == (2, 3, 7, 7)
        assert_close(captured[name], expected, atol=1e-6)
    assert_close(hidden, model(inputs)["sequence_output"], atol=1e-6)


def test_weights_inside_a_nested_model_are_captured():
    encoder = bert.encoder(TINY)
    model = bert_tasks.multiple_choice(encoder, num_choices=5)
    inputs = bert_inputs((2, 5, 7))
    captured = attention_model(model)(inputs)
    rows = {name: np.swapaxes(x, 0, 1).reshape(10, 7) for name, x in inputs.items()}
    expected = attention_model(encoder)(rows)
    assert set(captured) == {"bert_encoder_block_0", "bert_encoder_block_1"}
    for name in expected:
        assert_close(captured[f"bert_encoder_{name}"], expected[name], atol=1e-6)


def weights_of(layer, inputs, **arguments):
    return arrays(layer(inputs, return_attention_scores=True, **arguments)[1])


@pytest.mark.parametrize(
    "written", ["left first", pytest.param("right first", marks=pytest.mark.slow)]
)
def test_each_call_of_a_shared_encoder_is_captured_separately(written):
    encoder = bert.encoder(TINY)
    sides = {
        side: {
            key: keras.Input((None,), dtype=tensor.dtype, name=f"{side}_{key}")
            for key, tensor in encoder.input.items()
        }
        for side in ("left", "right")
    }
    order = ["left", "right"] if written == "left first" else ["right", "left"]
    pooled = {side: encoder(sides[side])["pooled_output"] for side in order}
    siamese = keras.Model(sides, keras.layers.Dot(axes=1)([pooled["left"], pooled["right"]]))
    rng = np.random.default_rng(5)
    values = {
        side: {**bert_inputs((2, length)), "token_ids": rng.integers(29, size=(2, length))}
        for side, length in (("left", 7), ("right", 5))
    }
    captured = attention_model(siamese)(values)
    first, second = (attention_model(encoder)(values[side]) for side in order)
    assert list(captured) == [
        *(f"bert_encoder_{name}" for name in first),
        *(f"bert_encoder_call_2_{name}" for name in second),
    ]
    for name in first:
        assert_close(captured[f"bert_encoder_{name}"], first[name], atol=1e-6)
        assert_close(captured[f"bert_encoder_call_2_{name}"], second[name], atol=1e-6)


def test_a_layer_called_in_sequence_and_in_parallel_is_captured_per_call():
    layer = layers.MultiHeadSelfAttention(2, name="own")
    x, y = keras.Input((5, 4)), keras.Input((3, 4))
    model = keras.Model([x, y], [layer(layer(x)), layer(y)])
    rng = np.random.default_rng(7)
    values = [rng.normal(size=(2, n, 4)).astype("float32") for n in (5, 3)]
    captured = attention_model(model)(values)
    expected = {
        "own": weights_of(layer, values[0]),
        "own_call_2": weights_of(layer, layer(values[0])),
        "own_call_3": weights_of(layer, values[1]),
    }
    assert list(captured) == list(expected)
    for name, weights in expected.items():
        assert_close(captured[name], weights, atol=1e-6)


def test_weights_inside_time_distributed_are_captured():
    inputs = keras.Input((5, 4))
    layer = layers.MultiHeadSelfAttention(2, name="own")
    steps = keras.layers.TimeDistributed(keras.Model(inputs, layer(inputs)), name="each")
    x = keras.Input((3, 5, 4))
    model = keras.Model(x, steps(x))
    values = np.random.default_rng(7).normal(size=(2, 3, 5, 4)).astype("float32")
    captured = attention_model(model)
    assert captured.output["each_own"].shape == (None, 3, 2, 5, 5)
    expected = [weights_of(layer, values[:, step]) for step in range(3)]
    assert_close(captured(values)["each_own"], np.stack(expected, 1), atol=1e-6)


def test_output_names_of_layers_do_not_collide():
    x, context = keras.Input((5, 4)), keras.Input((3, 4))
    blocks = [layers.TransformerDecoderBlock(2, 7, name=name) for name in ("block", "block_1")]
    model = keras.Model([x, context], blocks[1](blocks[0](x, context), context))
    assert list(attention_model(model).output) == ["block", "block/1", "block_1", "block_1_1"]


def test_a_cache_is_not_captured_as_weights():
    block = layers.TransformerEncoderBlock(2, 7, causal=True, name="block")
    x = keras.Input((5, 4))
    cache = {name: keras.Input((2, 6, 2), name=name) for name in ("key", "value")}
    outputs, after = block(x, cache=cache)
    model = attention_model(keras.Model([x, cache], [outputs, after["key"]]))
    assert {name: w.shape for name, w in model.output.items()} == {"block": (None, 2, 5, 6)}


def test_encoder_decoder_and_cross_attention_weights_are_captured():
    model = transformer.encoder_decoder(
        "transformer_tiny", vocabulary_size=31, num_layers=1, dropout=0.0
    )
    inputs = {"source_ids": np.full((2, 5), 7), "target_ids": np.full((2, 3), 11)}
    inputs["source_padding_mask"] = np.array([[True] * 5, [True] * 4 + [False]])
    captured = {name: ops.convert_to_numpy(w) for name, w in attention_model(model)(inputs).items()}
    assert {name: weights.shape for name, weights in captured.items()} == {
        "encoder_block_0": (2, 4, 5, 5),
        "decoder_block_0": (2, 4, 3, 3),
        "decoder_block_0_1": (2, 4, 3, 5),
    }
    assert np.all(np.triu(captured["decoder_block_0"], 1) == 0)
    assert np.all(captured["decoder_block_0_1"][1, ..., 4] == 0)


def test_a_layer_that_already_returns_its_weights_is_captured():
    model = rnn_attention.encoder_decoder(31, embedding_dim=4, units=6, attention_scores=True)
    source = np.array([[7, 7, 7, 7, 7], [7, 7, 7, 0, 0]])
    inputs = {"source_ids": source, "target_ids": np.full((2, 3), 11)}
    expected = model(inputs)["attention_scores"]
    assert_close(attention_model(model)(inputs)["decoder"], expected, atol=1e-6)


def test_keras_attention_weights_are_captured():
    inputs = keras.Input((5, 4))
    outputs = keras.layers.MultiHeadAttention(2, 3, name="own")(inputs, inputs)
    model = attention_model(keras.Model(inputs, outputs))
    weights = model(np.ones((1, 5, 4), "float32"))["own"]
    assert_close(weights, np.full((1, 2, 5, 5), 0.2), atol=1e-6)


def test_weights_of_a_sequential_model_use_the_keras_mask():
    embedding = keras.layers.Embedding(13, 6, mask_zero=True)
    attention = layers.MultiHeadSelfAttention(2, name="own")
    model = keras.Sequential([keras.Input((5,), dtype="int32"), embedding, attention])
    weights = attention_model(model)(np.array([[7, 11, 3, 0, 0]]))["own"]
    assert np.all(ops.convert_to_numpy(weights)[..., 3:] == 0)


def softmax_of_products(entry, visible):
    query, key = (arrays(entry[name]).astype("float64") for name in ("query", "key"))
    logits = np.where(visible, query @ np.swapaxes(key, -1, -2), -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_captured_weights_equal_the_softmax_of_query_times_key():
    """Blocks with rotary, normalized and grouped heads, a decoder, a layer without heads."""
    x, context = keras.Input((5, 12)), keras.Input((3, 8))
    options = {"num_kv_heads": 2, "query_key_norm": "rms"}
    rotary = layers.RotaryEmbedding(10.0, rotary_fraction=0.7)
    block = layers.TransformerEncoderBlock(
        4, 7, causal=True, position=rotary, attention_options=options, name="block"
    )
    outputs = layers.TransformerDecoderBlock(3, 7, name="decoder")(block(x), context)
    drop_in = layers.MultiHeadAttention(2, 3, name="drop_in")(outputs, context)
    outputs = layers.Attention(name="plain")([drop_in, context @ np.ones((8, 12), "float32")])
    model = attention_model(keras.Model([x, context], outputs), query_key=True)
    rng = np.random.default_rng(5)
    found = model([3 * rng.normal(size=(2, *size)).astype("float32") for size in ((5, 12), (3, 8))])
    causal = np.tri(5, dtype=bool)
    visible = {"block": causal, "decoder": causal, "decoder_1": True, "drop_in": True}
    assert set(found) == {*visible, "plain"}
    assert found["block"]["key"].shape == (2, 4, 5, 3)
    for name, mask in (visible | {"plain": True}).items():
        expected = softmax_of_products(found[name], mask)
        np.testing.assert_allclose(arrays(found[name]["weights"]), expected, atol=1e-5)


def test_query_and_key_inside_a_nested_model_are_captured():
    encoder = bert.encoder(TINY)
    model = bert_tasks.multiple_choice(encoder, num_choices=5)
    inputs = bert_inputs((2, 5, 7))
    found = attention_model(model, query_key=True)(inputs)
    assert set(found) == {"bert_encoder_block_0", "bert_encoder_block_1"}
    rows = np.swapaxes(inputs["padding_mask"] & np.ones((2, 5, 7), bool), 0, 1).reshape(10, 7)
    for entry in found.values():
        expected = softmax_of_products(entry, rows[:, None, None])
        np.testing.assert_allclose(arrays(entry["weights"]), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: keras.layers.MultiHeadAttention(2, 3, name="own"), "it is Keras' own, which `ker"),
        (lambda: layers.BahdanauAttention(3, name="own"), "its logits are no product of the query"),
    ],
    ids=["Keras' own", "additive"],
)
def test_a_layer_without_query_and_key_warns(make, reason):
    x = keras.Input((5, 4))
    model = keras.Model(x, make()(x, x))
    with pytest.warns(UserWarning, match=f"the layer 'own' gives no query and key: {reason}"):
        assert set(attention_model(model, query_key=True).output["own"]) == {"weights"}


def test_additive_logits_and_other_attention_axes_warn():
    x, grid = keras.Input((5, 4)), keras.Input((3, 5, 4))
    additive = layers.AdditiveAttention(name="own")([x, x])
    axes = layers.MultiHeadAttention(2, 3, attention_axes=(1, 2), name="own")(grid, grid)
    for inputs, outputs, reason in (
        (x, additive, "its logits are no product"),
        (grid, axes, "its weights have other axes"),
    ):
        model = keras.Model(inputs, outputs)
        with pytest.warns(UserWarning, match=f"the layer 'own' gives no query and key: {reason}"):
            assert set(attention_model(model, query_key=True).output["own"]) == {"weights"}


def test_a_model_without_attention_returns_none():
    inputs = keras.Input((4,))
    assert attention_model(keras.Model(inputs, keras.layers.Dense(3)(inputs))) is None


def test_a_model_that_is_not_functional_raises():
    with pytest.raises(ValueError, match="`model` must be functional, .*, got the NoneType None"):
        attention_model(None)
    with pytest.raises(
        ValueError, match="must be functional, or sequential and built, got the Seq"
    ):
        attention_model(keras.Sequential([layers.MultiHeadSelfAttention(2)]))
