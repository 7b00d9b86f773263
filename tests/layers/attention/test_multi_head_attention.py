"""Our drop-in against keras.layers.MultiHeadAttention with the same weights, and differences.

Letters: B batch, F a free axis, T query length, S key length, D, E widths, N heads, H head width.
"""

import keras
import numpy as np
import pytest

from keras_attn import layers, ops
from tests.backend import BACKEND, arrays

B, F, T, S, D, E, N, H = 2, 3, 5, 7, 12, 11, 4, 6
THEIRS, OURS = keras.layers.MultiHeadAttention, layers.MultiHeadAttention
RNG = np.random.default_rng(0)
QUERY, VALUE = (RNG.normal(size=(B, n, w)).astype("float32") for n, w in ((T, D), (S, E)))
GRID = RNG.normal(size=(B, F, T, D)).astype("float32")
OTHER_GRID = RNG.normal(size=(B, F, S, E)).astype("float32")
MASK = RNG.random((B, N, T, S)) < 0.6
MASK[..., 0] = True


def pair(*inputs, **options):
    """Keras' layer and ours with the same random weights."""
    options.setdefault("kernel_initializer", "normal")
    options.setdefault("bias_initializer", "normal")
    theirs, ours = THEIRS(N, H, **options), OURS(N, H, **options)
    for layer in (theirs, ours):
        layer.build(*(x.shape for x in inputs))
    ours.set_weights(theirs.get_weights())
    return theirs, ours


def assert_same(ours, theirs, tolerance=1e-5):
    for one, other in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        np.testing.assert_allclose(arrays(one), arrays(other), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"value_dim": 9, "use_bias": False},
        {"output_shape": 13},
        {"output_shape": (3, 2)},
        {"use_gate": True},
        {"sliding_window": 3},
        {"sliding_window": 1},
        {"dropout": 0.4},
        {"attention_axes": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("causal", "mask"),
    [
        (False, None),
        (True, None),
        (True, MASK[0, 0]),
        (False, MASK[:, 0]),
        (True, MASK),
    ],
    ids=["plain", "causal", "causal_TS", "BTS", "causal_BNTS"],
)
def test_options_masks_and_scores_equal_keras(options, causal, mask):
    if "value_dim" in options and BACKEND == "jax":
        options = {**options, "value_dim": H}  # Keras supports no other there
    theirs, ours = pair(QUERY, VALUE, **options)
    given = {"attention_mask": mask, "use_causal_mask": causal}
    scores = {**given, "return_attention_scores": True}
    assert_same(ours(QUERY, VALUE, **scores), theirs(QUERY, VALUE, **scores))
    assert_same(ours(QUERY, VALUE, **given), theirs(QUERY, VALUE, **scores)[0])


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ((1, 2), (B, F, T, F, S)),
        ((2, 1), (B, T, F, S, F)),
        (None, (B, N, F, T, F, S)),
        ((2,), (B, T, S)),
        ((-2,), (B, F, T, S)),
        ((2,), (T, S)),
    ],
)
def test_attention_axes_equal_keras(axes, shape):
    theirs, ours = pair(GRID, OTHER_GRID, attention_axes=axes)
    mask = np.random.default_rng(1).random(shape) < 0.6
    mask[..., 0] = True
    for given in ({}, {"attention_mask": mask}):
        given = {**given, "return_attention_scores": True}
        assert_same(ours(GRID, OTHER_GRID, **given), theirs(GRID, OTHER_GRID, **given))


def test_training_without_dropout_equals_keras():
    theirs, ours = pair(QUERY, QUERY)
    found = []
    for layer in (theirs, ours):
        inputs = keras.Input((T, D))
        model = keras.Model(inputs, layer(inputs, inputs, use_causal_mask=True))
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(QUERY, np.ones_like(QUERY), epochs=3, verbose=0)
        found.append(layer.get_weights())
    assert_same(*found)


def test_configs_and_weight_files_are_interchangeable_with_keras(tmp_path):
    options = {"value_dim": 9, "dropout": 0.2, "sliding_window": 3, "use_gate": True, "seed": 3}
    theirs, ours = pair(QUERY, VALUE, **options)
    config = ours.get_config()
    assert isinstance(ours, THEIRS)
    assert THEIRS.get_config(theirs).keys() == config.keys() - {"flash_attention", "position"}
    assert OURS.from_config(theirs.get_config()).get_config() == {**config, "name": theirs.name}
    assert [w.path.split("/")[1:] for w in ours.weights] == [
        w.path.split("/")[1:] for w in theirs.weights
    ]
    for index, (source, kind) in enumerate(((theirs, OURS), (ours, THEIRS))):
        path = tmp_path / f"{index}.weights.h5"
        models = []
        for layer in (source, kind(N, H, **options)):
            query, value = keras.Input((T, D)), keras.Input((S, E))
            models.append(keras.Model([query, value], layer(query, value)))
        models[0].save_weights(path)
        models[1].load_weights(path)
        assert_same(*(model.get_weights() for model in models))


def test_lora_and_quantization(tmp_path):
    _, ours = pair(QUERY, VALUE)
    query, value = keras.Input((T, D)), keras.Input((S, E))
    model = keras.Model([query, value], ours(query, value))
    expected = arrays(model([QUERY, VALUE]))
    parts = (ours.query_dense, ours.key_dense, ours.value_dense, ours.output_dense)
    for part in parts:
        part.enable_lora(2)
    assert_same(model([QUERY, VALUE]), expected)  # a new adapter's B is zero
    assert len(ours.trainable_weights) == 12
    ours.query_dense.lora_kernel_b.assign(ours.query_dense.lora_kernel_b + 1.0)
    tuned = arrays(model([QUERY, VALUE]))
    assert abs(tuned - expected).max() > 1e-3
    for part in parts:
        part.quantize("int8")
    quantized = arrays(model([QUERY, VALUE]))
    np.testing.assert_allclose(quantized, tuned, atol=0.05 * abs(tuned).max())
    assert ours.query_dense.quantization_mode == "int8"
    model.save(tmp_path / "quantized.keras")
    again = keras.models.load_model(tmp_path / "quantized.keras")
    assert_same(
        again([QUERY, VALUE]), quantized, 2e-3
    )  # the file has the adapter merged and quantized again


# Where Keras is wrong, as the docstring lists


def test_an_explicit_query_mask_is_applied():
    _, ours = pair(QUERY, VALUE)
    mask = np.arange(T) < [[3], [5]]
    outputs, scores = ours(QUERY, VALUE, query_mask=mask, return_attention_scores=True)
    bias = np.broadcast_to(arrays(ours.output_dense.bias), (2, D))
    np.testing.assert_allclose(arrays(outputs)[0, 3:], bias, rtol=1e-5, atol=1e-6)
    assert not arrays(scores)[0, :, 3:].any()
    np.testing.assert_allclose(arrays(scores)[~np.isclose(arrays(scores).sum(-1), 0)].sum(-1), 1, 5)


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}, {"flash_attention": False}], ids=str)
@pytest.mark.parametrize("scores", [False, True])
def test_a_fully_masked_query_has_zero_context(options, scores):
    _, ours = pair(QUERY, VALUE, **options)
    mask = MASK[:, 0].copy()
    mask[:, 2] = False
    found = ours(QUERY, VALUE, attention_mask=mask, return_attention_scores=scores)
    outputs = arrays(found[0] if scores else found)
    bias = np.broadcast_to(arrays(ours.output_dense.bias), (B, D))
    np.testing.assert_allclose(outputs[:, 2], bias, rtol=1e-5, atol=1e-6)


def test_causal_mask_and_window_follow_the_attention_axis():
    _, ours = pair(GRID, GRID, attention_axes=(2,), sliding_window=2)
    plain = OURS(N, H, sliding_window=2)
    plain.build(GRID[:, 0].shape, GRID[:, 0].shape)
    plain.set_weights(ours.get_weights())
    rows = [arrays(plain(GRID[:, f], GRID[:, f], use_causal_mask=True)) for f in range(F)]
    assert_same(ours(GRID, GRID, use_causal_mask=True), np.stack(rows, 1))


def test_inputs_keep_their_masks_and_the_query_mask_is_propagated():
    ids = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(9, D, mask_zero=True)(ids)
    outputs = OURS(N, H)(hidden, hidden)
    assert hidden._keras_mask is not None and outputs._keras_mask is not None


@pytest.mark.parametrize("flash", [True, False, None])
def test_flash_attention_is_saved_and_works_with_dropout_and_scores(flash):
    layer = OURS(N, H, dropout=0.1, flash_attention=flash)
    assert OURS.from_config(layer.get_config()).flash_attention is flash
    plain = OURS(N, H)
    plain.build(QUERY.shape, VALUE.shape)
    layer.build(QUERY.shape, VALUE.shape)
    plain.set_weights(layer.get_weights())
    given = {"return_attention_scores": True}
    assert_same(layer(QUERY, VALUE, **given), plain(QUERY, VALUE, **given))


@pytest.mark.parametrize(
    ("given", "configured", "kernel"),
    [
        (None, None, "auto"),
        (None, False, "reference"),
        (True, False, "auto"),
        (False, True, "reference"),
    ],
)
def test_flash_attention_chooses_the_kernel(given, configured, kernel, monkeypatch):
    asked = []

    def attention(*tensors, **options):
        asked.append(options["kernel"])
        return door(*tensors, **options)

    door = ops.attention
    monkeypatch.setattr(ops, "attention", attention)
    monkeypatch.setattr(keras.config, "is_flash_attention_enabled", lambda: configured)
    OURS(N, H, flash_attention=given)(QUERY, VALUE)
    assert asked == [kernel]


def test_invalid_input_raises():
    for options, message in (
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
        ({"sliding_window": 0}, "`sliding_window` must be a positive integer, got 0"),
        ({"position": 3}, "`position` must be a RotaryEmbedding"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            OURS(N, H, **options)
    with pytest.raises(ValueError, match=r"`attention_mask` must be broadcastable to .*5, 6\)"):
        OURS(N, H)(QUERY, VALUE, attention_mask=np.ones((B, T, S - 1), bool))
    grid = OURS(N, H, attention_axes=(2,))
    with pytest.raises(
        ValueError, match=r"`query_mask` must be .* \[batch, axis 1, axis 2\] .*, 1, 1, 5\)"
    ):
        grid(GRID, OTHER_GRID, query_mask=np.ones((B, 1, 1, T), bool))
    with pytest.raises(ValueError, match=r"`attention_mask` must have between 2 and 5 axes"):
        grid(GRID, OTHER_GRID, attention_mask=np.ones((T,), bool))


@pytest.mark.backends("tensorflow", reason="LiteRT converts TensorFlow's graphs")
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_a_model_of_unknown_length_runs_in_litert(tmp_path):
    import tensorflow as tf

    inputs, mask = keras.Input((None, 4)), keras.Input((None,), dtype="bool")
    outputs = OURS(1, 2)(inputs, inputs, value_mask=mask, use_causal_mask=True)
    model = keras.Model([inputs, mask], outputs)
    path = str(tmp_path / "model.tflite")
    model.export(path, format="litert", verbose=False)
    values = RNG.normal(size=(B, T, 4)).astype("float32")
    given = {"float32": values, "bool": np.arange(T) < [[2], [4]]}
    runtime = tf.lite.Interpreter(model_path=path)
    names = {operation["op_name"] for operation in runtime._get_ops_details()}
    assert not names & {"IF", "WHILE"}  # no branch and no loop
    assert b"Flex" not in (tmp_path / "model.tflite").read_bytes()  # nor TensorFlow's operations
    for place in runtime.get_input_details():
        runtime.resize_tensor_input(place["index"], given[np.dtype(place["dtype"]).name].shape)
    runtime.allocate_tensors()
    for place in runtime.get_input_details():
        runtime.set_tensor(place["index"], given[np.dtype(place["dtype"]).name])
    runtime.invoke()
    found = runtime.get_tensor(runtime.get_output_details()[0]["index"])
    assert_same(found, model([values, given["bool"]]))
