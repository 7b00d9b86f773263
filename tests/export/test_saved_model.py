import os
import resource
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401 - registers the operations of the offending preprocessor
from tensorflow.core.protobuf import saved_model_pb2

from keras_attn import data, export, models
from keras_attn.export import compatibility, fresh_process, isolation
from keras_attn.export.isolation import as_array
from tests.export import cpp_loader
from tests.export.small import LENGTH, SIZE, VOCABULARY, masked_lm_layers

pytestmark = pytest.mark.backends("tensorflow", reason="what is served is a TensorFlow graph")

TEXTS = ["the [MASK] sat on a [MASK].", "", "Playing!", "[MASK]"]


def tiny():
    """A model without text, quick to publish."""
    inputs = keras.Input((3,), name="numbers")
    return keras.Model(inputs, keras.layers.Dense(2, name="scores")(inputs))


def answers(model, texts):
    """What Keras computes, put together by hand."""
    layers = masked_lm_layers()
    features = layers["preprocessor"](texts)
    outputs = model({key: features[key] for key in model.input})
    return layers["postprocessor"](outputs, features)


def test_names_types_and_shapes_are_told(servable):
    assert servable.version == 1
    assert servable.path.name == "1"
    assert list(servable.signatures) == ["serving_default", "tokens", "attention", "embed"]
    inputs, outputs = servable.signatures["serving_default"]
    assert inputs == {"text": export.Tensor("string", (None,))}
    assert outputs["pieces"] == export.Tensor("string", (None, None, 2))
    assert outputs["probabilities"] == export.Tensor("float32", (None, None, 2))


def ask_here(servable, signature="serving_default", **inputs):
    """The answer of a session in this process."""
    arrays = {name: as_array(value) for name, value in inputs.items()}
    (answer,) = fresh_process.run(str(servable.path), [(signature, arrays)])
    return answer


def test_a_fresh_process_answers_as_keras_does(servable, model):
    expected = answers(model, TEXTS)
    got = export.ask(servable.path, text=TEXTS)
    assert [[[p.encode() for p in m] for m in row] for row in got["pieces"].tolist()] == expected[
        "pieces"
    ].numpy().tolist()
    np.testing.assert_allclose(got["probabilities"], expected["probabilities"], atol=1e-6)


def test_keras_cannot_be_imported_there():
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


def test_the_cpp_loader_answers_as_keras_does(servable, model, loader, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(servable.path, moved)
    expected = answers(model, TEXTS)
    got = cpp_loader.run(loader, moved, "serving_default", {"text": TEXTS})
    assert got["pieces"].tolist() == expected["pieces"].numpy().tolist()
    np.testing.assert_allclose(got["probabilities"], expected["probabilities"], atol=1e-6)


def test_tokens_take_ids_and_lengths_whatever_stands_behind(servable, model, loader):
    row = data.MaskedLMPreprocessor(VOCABULARY, LENGTH)(["a [MASK] cat"])["token_ids"].numpy()
    padded = np.concatenate([row, [[9, 4, 3]]], axis=1)
    inputs = {"token_ids": padded.astype("int32"), "lengths": np.array([row.shape[1]], "int32")}
    got = cpp_loader.run(loader, servable.path, "tokens", inputs)
    expected = answers(model, ["a [MASK] cat"])
    assert got["pieces"].tolist() == expected["pieces"].numpy().tolist()
    np.testing.assert_allclose(got["probabilities"], expected["probabilities"], atol=1e-6)


def test_attention_gives_every_layer_and_head_with_the_pieces(servable, model, loader):
    got = cpp_loader.run(loader, servable.path, "attention", {"text": ["the cat sat", "a"]})
    assert got["pieces"].tolist()[1] == [b"[CLS]", b"a", b"[SEP]", b"", b""]
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


def test_embed_gives_the_mean_of_the_pieces_and_the_pooled_vector(server, model):
    got = server.run("embed", {"text": as_array(["the cat sat", "a"])})
    features = masked_lm_layers()["preprocessor"](["a"])
    encoder = models.bert.encoder_of(model)
    outputs = encoder({key: features[key] for key in encoder.input})
    np.testing.assert_allclose(got["mean"][1], outputs["sequence_output"][0].numpy().mean(0), 1e-4)
    np.testing.assert_allclose(got["pooled"][1], outputs["pooled_output"][0], atol=1e-5)


def test_an_answer_is_the_same_alone_and_in_a_batch(server):
    together, alone = (
        server.run("serving_default", {"text": as_array(texts)})
        for texts in ([*TEXTS, "the cat sat on a mat. " * 9], TEXTS[:1])
    )
    np.testing.assert_allclose(
        together["probabilities"][0, :2], alone["probabilities"][0], atol=1e-5
    )


def test_ids_outside_the_vocabulary_are_an_error_that_says_so(servable):
    with pytest.raises(ValueError, match=f"vocabulary of {len(VOCABULARY)}"):
        export.ask(
            servable.path,
            "tokens",
            token_ids=np.array([[2, 99]], "int32"),
            lengths=np.array([2], "int32"),
        )


def test_versions_follow_each_other_and_old_ones_stay(tmp_path, checked_here):
    base_dir = tmp_path / "numbers"
    first = export.publish(tiny(), base_dir)
    before = {file: file.read_bytes() for file in first.path.rglob("*") if file.is_file()}
    second = export.publish(tiny(), base_dir, version=7)
    assert [first.version, second.version] == [1, 7]
    assert {file: file.read_bytes() for file in before} == before
    assert list(first.signatures["serving_default"][0].items()) == [
        ("numbers", export.Tensor("float32", (None, 3)))
    ]
    assert list(first.signatures["serving_default"][1]) == ["scores"]
    export.publish(tiny(), base_dir, keep=2)
    assert sorted(p.name for p in base_dir.iterdir() if p.is_dir()) == ["7", "8"]


def test_nothing_is_pruned_for_a_version_that_is_refused(tmp_path, monkeypatch):
    export.publish(tiny(), tmp_path)
    monkeypatch.setattr(isolation, "run", lambda path, requests: ["it is broken"])
    with pytest.raises(ValueError, match="'serving_default' fails in a fresh process: it is bro"):
        export.publish(tiny(), tmp_path, keep=1)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["1"]


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path):
    size = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, size[1]))
    try:
        with pytest.raises(ValueError, match="`base_dir` must be a writable folder with room, got"):
            export.publish(tiny(), tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, size)
    assert not (tmp_path / "full").exists()


def test_half_precision_inside_float32_outside(model, tmp_path, checked_here):
    made = export.publish(
        model,
        tmp_path / "half",
        **masked_lm_layers(),
        signatures=["serving_default"],
        compute_dtype="bfloat16",
    )
    got = ask_here(made, text=TEXTS)
    assert got["probabilities"].dtype == np.float32
    np.testing.assert_allclose(
        got["probabilities"], answers(model, TEXTS)["probabilities"], atol=3e-2
    )


def test_a_compiled_core_answers_the_same(model, tmp_path, loader, checked_here):
    made = export.publish(
        model,
        tmp_path / "compiled",
        **masked_lm_layers(),
        signatures=["serving_default"],
        jit_compile=True,
    )
    assert b"_XlaMustCompile" in (made.path / "saved_model.pb").read_bytes()
    got = cpp_loader.run(loader, made.path, "serving_default", {"text": TEXTS})
    np.testing.assert_allclose(
        got["probabilities"], answers(model, TEXTS)["probabilities"], atol=1e-5
    )


def test_a_signature_of_ones_own(tmp_path, checked_here):
    model = tiny()
    own = export.Signature(
        function=lambda numbers: {"best": tf.argmax(model(numbers), axis=-1)},
        inputs={"numbers": tf.TensorSpec([None, 3], tf.float32)},
        examples=[{"numbers": [[1.0, 2.0, 3.0]]}],
    )
    made = export.publish(model, tmp_path / "own", signatures={"best": own})
    assert list(made.signatures) == ["serving_default", "best"]
    assert ask_here(made, "best", numbers=np.ones((2, 3), "float32"))["best"].shape == (2,)


class Trimmed(data.MaskedLMPreprocessor):
    """Packs with an operation that servers up to 2.19 lack."""

    def call(self, text):
        pieces = tensorflow_text.RoundRobinTrimmer(self.length - 2).trim([self.tokenizer(text)])
        return self._pack(pieces)


def test_an_operation_that_the_server_lacks_is_named(model, tmp_path):
    layers = masked_lm_layers()
    layers["preprocessor"] = Trimmed(VOCABULARY, length=LENGTH)
    with pytest.raises(ValueError, match="2.19 cannot run .* no operation TFText>RoundRobin") as e:
        export.publish(
            model, tmp_path / "bert", **layers, server="2.19", signatures=["serving_default"]
        )
    assert "node" in str(e.value)
    assert not (tmp_path / "bert").exists()
    assert "TFText>RoundRobinTrim" in compatibility.operations_of("2.20")


def test_variables_have_nothing_that_an_old_server_refuses(servable, tmp_path):
    stripped = (servable.path / "saved_model.pb").read_bytes()
    compatibility.check_operations(servable.path, "2.12")
    model = saved_model_pb2.SavedModel.FromString(stripped)
    node = next(n for n in model.meta_graphs[0].graph_def.node if n.op == "VarHandleOp")
    node.attr["debug_name"].s = b"x"
    (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="2.12 .* VarHandleOp has no attribute debug_name"):
        compatibility.check_operations(tmp_path, "2.12")


def test_what_differs_from_keras_is_refused(tmp_path, checked_here):
    state = {"calls": 0}

    def moody(numbers):
        state["calls"] += 1
        return {"out": numbers + state["calls"]}

    own = export.Signature(
        moody, {"numbers": tf.TensorSpec([None], tf.float32)}, [{"numbers": [1.0]}]
    )
    with pytest.raises(ValueError, match="'moody', output 'out' differs from Keras by"):
        export.publish(tiny(), tmp_path / "moody", signatures={"moody": own})
    assert not (tmp_path / "moody").exists()


def test_outputs_without_the_batch_are_refused(tmp_path, checked_here):
    own = export.Signature(
        lambda numbers: {"sum": tf.reduce_sum(numbers)},
        {"numbers": tf.TensorSpec([None], tf.float32)},
        [{"numbers": [1.0, 2.0]}],
    )
    with pytest.raises(ValueError, match="'total', output 'sum' must have the batch first"):
        export.publish(tiny(), tmp_path / "total", signatures={"total": own})


def test_an_untracked_variable_is_refused(tmp_path, checked_here):
    stray = tf.Variable(2.0)
    own = export.Signature(
        lambda numbers: {"out": numbers * stray},
        {"numbers": tf.TensorSpec([None], tf.float32)},
        [{"numbers": [1.0]}],
    )
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), 0)
    untracked = export.Signature(
        lambda text: {"out": table.lookup(text)},
        {"text": tf.TensorSpec([None], tf.string)},
        [{"text": ["a"]}],
    )
    export.publish(tiny(), tmp_path / "tracked", signatures={"stray": own})
    with pytest.raises(ValueError, match="uses what `model` does not track"):
        export.publish(tiny(), tmp_path / "untracked", signatures={"table": untracked})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": -1}, "`version` must be an integer from 0, got -1"),
        ({"version": True}, "`version` must be an integer from 0, got True"),
        ({"keep": 0}, "`keep` must be at least 1, got 0"),
        ({"server": "1.15"}, "`server` must be a ModelServer version from 2.12, 2.19, 2.20 on"),
        ({"server": "new"}, "`server` must be a ModelServer version"),
        ({"signatures": {"__saved_model_init_op": None}}, "`signatures` must have names of"),
        ({"signatures": {"a/b": None}}, "got 'a/b'"),
        ({"signatures": ["nothing"]}, "`signatures` must be among serving_default, got 'nothing'"),
        ({"compute_dtype": "int8"}, "`compute_dtype` must be float32, bfloat16 or float16"),
        ({"warmup": {"other": []}}, "`warmup` must be for serving_default, got 'other'"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export.publish(tiny(), tmp_path / "bad", **arguments)
    assert not (tmp_path / "bad").exists()


def test_a_version_that_exists_is_refused(servable):
    with pytest.raises(ValueError, match="`version` must be new, got 1, which"):
        export.publish(tiny(), servable.path.parent, version=1)


def test_another_vocabulary_is_refused(tmp_path):
    layers = masked_lm_layers()
    other = models.bert.pretraining(SIZE, vocabulary_size=31)
    with pytest.raises(ValueError, match="model's vocabulary of 31 pieces, got 15"):
        export.publish(other, tmp_path / "other", **layers)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match="`base_dir` must be a writable folder with room, got .*file"
    ):
        export.publish(tiny(), tmp_path / "file")


def test_an_unbuilt_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`model` must be a functional model that is built"):
        export.publish(keras.Sequential([keras.layers.Dense(2)]), tmp_path / "unbuilt")


def test_ask_names_what_is_wrong(servable, tmp_path):
    requests = [("nothing", {"text": as_array(["a"])}), ("serving_default", {"words": [1]})]
    unknown, misnamed = isolation.run(servable.path, requests)
    assert "no signature 'nothing', there are" in unknown
    assert "serving_default takes text, got words" in misnamed
    with pytest.raises(RuntimeError, match="does not run in a fresh process"):
        export.ask(tmp_path, text=["a"])
