import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_attn import data, export, models
from keras_attn.export import compatibility, fresh_process
from keras_attn.export.isolation import as_array
from tests.export import cpp_loader, small
from tests.export.small import LENGTH, VOCABULARY, ask_here, masked_lm_layers

pytestmark = pytest.mark.backends("tensorflow", reason="what is served is a TensorFlow graph")

TEXTS = ["the [MASK] sat on a [MASK].", "", "Playing!", "[MASK]"]


def answers(model, texts):
    """The outputs in Keras: preprocessor, model and postprocessor."""
    layers = masked_lm_layers()
    features = layers["preprocessor"](texts)
    outputs = model({key: features[key] for key in model.input})
    return layers["postprocessor"](outputs, features)


def test_the_servable_lists_names_dtypes_and_shapes(servable):
    assert servable.version == 1
    assert servable.path.name == "1"
    assert list(servable.signatures) == ["serving_default", "tokens", "attention", "embed"]
    inputs, outputs = servable.signatures["serving_default"]
    assert inputs == {"text": export.Tensor("string", (None,))}
    assert outputs["tokens"] == export.Tensor("string", (None, None, 2))
    assert outputs["probabilities"] == export.Tensor("float32", (None, None, 2))


def test_outputs_in_a_new_process_equal_keras(servable, model):
    expected = answers(model, TEXTS)
    got = export.ask(servable.path, text=TEXTS)
    assert [[[p.encode() for p in m] for m in row] for row in got["tokens"].tolist()] == expected[
        "tokens"
    ].numpy().tolist()
    np.testing.assert_allclose(got["probabilities"], expected["probabilities"], atol=1e-6)


def test_the_checking_process_cannot_import_keras():
    folder = os.path.dirname(fresh_process.__file__)
    script = "import sys, fresh_process; sys.meta_path.insert(0, fresh_process._Blocker); "
    for module in ("keras", "keras_attn", "keras_attn.export"):
        done = subprocess.run(
            [sys.executable, "-c", f"{script}import {module}"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": folder},
        )
        assert f"{module.partition('.')[0]} cannot be imported here" in done.stderr


def test_outputs_in_the_cpp_loader_equal_keras(servable, model, loader, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(servable.path, moved)
    expected = answers(model, TEXTS)
    got = cpp_loader.run(loader, moved, "serving_default", {"text": TEXTS})
    assert got["tokens"].tolist() == expected["tokens"].numpy().tolist()
    np.testing.assert_allclose(got["probabilities"], expected["probabilities"], atol=1e-6)


def test_the_tokens_signature_ignores_ids_beyond_the_length(server, model):
    row = data.MaskedLMPreprocessor(VOCABULARY, LENGTH)(["a [MASK] cat"])["token_ids"].numpy()
    padded = np.concatenate([row, [[9, 4, 3]]], axis=1)
    inputs = {"token_ids": padded.astype("int32"), "lengths": np.array([row.shape[1]], "int32")}
    got = server.run("tokens", inputs)
    expected = answers(model, ["a [MASK] cat"])
    assert got["tokens"].tolist() == expected["tokens"].numpy().tolist()
    np.testing.assert_allclose(got["probabilities"], expected["probabilities"], atol=1e-6)


def test_the_attention_signature_returns_weights_of_every_block_and_the_tokens(server, model):
    got = server.run("attention", {"text": as_array(["the cat sat", "a"])})
    assert got["tokens"].tolist()[1] == [b"[CLS]", b"a", b"[SEP]", b"", b""]
    features = masked_lm_layers()["preprocessor"](["the cat sat", "a"])
    encoder = models.bert.encoder_of(model)
    hidden = encoder.get_layer("embedding")(features["token_ids"], features["segment_ids"])
    hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    _, weights = encoder.get_layer("block_0")(
        hidden, mask=features["padding_mask"], return_attention_scores=True
    )
    assert got["block_0"].shape == (2, 3, 5, 5)
    np.testing.assert_allclose(got["block_0"], weights, atol=1e-6)
    np.testing.assert_allclose(got["block_1"].sum(-1)[0], 1, atol=1e-6)
    assert not got["block_1"][1, :, :, 3:].any()


def test_the_embed_signature_returns_mean_and_pooled_vectors(server, model):
    got = server.run("embed", {"text": as_array(["the cat sat", "a"])})
    features = masked_lm_layers()["preprocessor"](["a"])
    encoder = models.bert.encoder_of(model)
    outputs = encoder({key: features[key] for key in encoder.input})
    expected = outputs["sequence_output"][0].numpy().mean(0)
    np.testing.assert_allclose(got["mean"][1], expected, atol=1e-5)
    np.testing.assert_allclose(got["pooled"][1], outputs["pooled_output"][0], atol=1e-5)


def test_outputs_do_not_depend_on_the_rest_of_the_batch(server):
    together, alone = (
        server.run("serving_default", {"text": as_array(texts)})
        for texts in ([*TEXTS, "the cat sat on a mat. " * 9], TEXTS[:1])
    )
    np.testing.assert_allclose(
        together["probabilities"][0, :2], alone["probabilities"][0], atol=1e-5
    )


def test_ids_outside_the_vocabulary_raise(servable):
    ids = {"token_ids": np.array([[2, 99]], "int32"), "lengths": np.array([2], "int32")}
    assert f"vocabulary of {len(VOCABULARY)}" in ask_here(servable.path, "tokens", **ids)


def test_a_new_version_keeps_the_old_ones(tmp_path, checked_here):
    base_dir = tmp_path / "numbers"
    first = export.publish(small.tiny(), base_dir)
    before = {file: file.read_bytes() for file in first.path.rglob("*") if file.is_file()}
    second = export.publish(small.tiny(), base_dir, version=7)
    assert [first.version, second.version] == [1, 7]
    assert {file: file.read_bytes() for file in before} == before
    assert list(first.signatures["serving_default"][0].items()) == [
        ("numbers", export.Tensor("float32", (None, 3)))
    ]
    assert list(first.signatures["serving_default"][1]) == ["scores"]
    export.publish(small.tiny(), base_dir, keep=2)
    assert sorted(p.name for p in base_dir.iterdir() if p.is_dir()) == ["7", "8"]


@pytest.fixture(scope="module")
def one_block():
    return models.bert.pretraining(small.SIZE, num_layers=1)


def test_bfloat16_computation_returns_float32_outputs(one_block, tmp_path, checked_here):
    made = export.publish(
        one_block,
        tmp_path / "half",
        **masked_lm_layers(),
        signatures="serving_default",
        compute_dtype="bfloat16",
    )
    got = ask_here(made.path, text=TEXTS)
    assert got["probabilities"].dtype == np.float32
    np.testing.assert_allclose(
        got["probabilities"], answers(one_block, TEXTS)["probabilities"], atol=3e-2
    )


def test_an_xla_compiled_model_gives_the_same_outputs(one_block, tmp_path, loader, checked_here):
    made = export.publish(
        one_block,
        tmp_path / "compiled",
        **masked_lm_layers(),
        signatures=["serving_default"],
        jit_compile=True,
    )
    assert b"_XlaMustCompile" in (made.path / "saved_model.pb").read_bytes()
    got = cpp_loader.run(loader, made.path, "serving_default", {"text": TEXTS})
    np.testing.assert_allclose(
        got["probabilities"], answers(one_block, TEXTS)["probabilities"], atol=1e-5
    )


def test_a_user_signature_is_served(tmp_path, checked_here):
    model = small.tiny()
    own = export.Signature(
        function=lambda numbers: {"best": tf.argmax(model(numbers), axis=-1)},
        inputs={"numbers": tf.TensorSpec([None, 3], tf.float32)},
        examples=[{"numbers": [[1.0, 2.0, 3.0]]}],
    )
    made = export.publish(model, tmp_path / "own", functions={"best": own})
    assert list(made.signatures) == ["serving_default", "best"]
    assert ask_here(made.path, "best", numbers=np.ones((2, 3), "float32"))["best"].shape == (2,)


def test_attributes_unknown_to_old_servers_are_removed(servable, tmp_path):
    stripped = (servable.path / "saved_model.pb").read_bytes()
    compatibility.check_operations(servable.path, "2.12")
    model = saved_model_pb2.SavedModel.FromString(stripped)
    node = next(n for n in model.meta_graphs[0].graph_def.node if n.op == "VarHandleOp")
    node.attr["debug_name"].s = b"x"
    (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="2.12 .* VarHandleOp has no attribute debug_name"):
        compatibility.check_operations(tmp_path, "2.12")


def test_weights_and_graphs_are_stored_once(servable, model):
    stored = (servable.path / "variables" / "variables.data-00000-of-00001").stat().st_size
    weights = sum(np.prod(weight.shape) * 4 for weight in model.weights)
    assert stored < 1.01 * weights + 20_000  # plus the object graph and the names
    saved = saved_model_pb2.SavedModel.FromString((servable.path / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    products = [
        input
        for function in graph.library.function
        for node in function.node_def
        if node.op == "MatMul"
        for input in node.input
    ]
    traced = tf.function(lambda **inputs: model(inputs), autograph=False).get_concrete_function(
        **{name: tf.TensorSpec(t.shape, t.dtype) for name, t in model.input.items()}
    )
    once = sum(
        node.op == "MatMul"
        for nodes in (
            traced.graph.as_graph_def().node,
            *(f.node_def for f in traced.graph.as_graph_def().library.function),
        )
        for node in nodes
    )
    # text and tokens share one graph; attention and vectors have their own, without the head
    assert len(products) // 2 <= 3 * once


def test_loading_logs_no_gradient_warnings(servable):
    script = f"import tensorflow as tf; tf.saved_model.load({str(servable.path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", f"import tensorflow_text; {script}"],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "0"},
        check=True,
    )
    assert "gradient" not in done.stderr


def test_an_empty_batch_gives_empty_outputs(servable):
    for name in ("serving_default", "tokens", "attention"):
        _, outputs = servable.signatures[name]
        if name == "tokens":
            batch = {"token_ids": np.zeros((0, 5), "int32"), "lengths": np.zeros(0, "int32")}
        else:
            batch = {"text": np.zeros(0, object)}
        got = ask_here(servable.path, name, **batch)
        assert not isinstance(got, str), got
        assert {key: len(value) for key, value in got.items()} == dict.fromkeys(outputs, 0)


def test_equal_infinities_and_nans_are_accepted(tmp_path, checked_here):
    inputs = keras.Input((2,), name="numbers")
    log, root = keras.ops.log(inputs * 0), keras.ops.sqrt(-1 - inputs**2)
    outputs = {"log": log, "root": root, "same": inputs}
    made = export.publish(keras.Model(inputs, outputs), tmp_path)
    got = ask_here(made.path, numbers=np.ones((1, 2), "float32"))
    assert np.isneginf(got["log"]).all()
    assert np.isnan(got["root"]).all()
    assert (got["same"] == 1).all()


def test_every_output_has_a_unique_name(tmp_path, checked_here):
    inputs = keras.Input((None, 6), name="numbers")
    states = keras.layers.LSTM(4, return_state=True, name="lstm")(inputs)
    context, weights = keras.layers.MultiHeadAttention(2, 3, name="attention")(
        inputs, inputs, return_attention_scores=True
    )
    model = keras.Model(inputs, [*states, context, weights])
    made = export.publish(model, tmp_path / "m")
    batch = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")
    got = ask_here(made.path, numbers=batch)
    names = ["lstm_0", "lstm_1", "lstm_2", "attention_0", "attention_1"]
    assert set(got) == set(names) == set(made.signatures["serving_default"][1])
    for name, expected in zip(names, model(batch), strict=True):
        np.testing.assert_allclose(got[name], expected, atol=1e-5)


@pytest.mark.parametrize("signature", ["serving_default", "embed"])
def test_no_texts_give_empty_outputs_on_the_server(server, signature):
    got = server.run(signature, {"text": np.array([], object)})
    assert got
    assert all(value.shape[0] == 0 for value in got.values())
