"""A file gives the same outputs in its runtime as the model in Keras, or it is not written."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_attn
from benchmarks import runtimes as benchmark
from keras_attn import export, layers, models
from keras_attn.export import runtimes
from tests.export import small

on_tensorflow = pytest.mark.backends("tensorflow", reason="TensorFlow's graphs are converted")

EXPORT = {
    "onnx": (export.to_onnx, "model.onnx", ["model.onnx"]),
    "litert": (export.to_litert, "model.tflite", ["model.tflite"]),
    "openvino": (export.to_openvino, "model.xml", ["model.bin", "model.xml"]),
}
RNG = np.random.default_rng(0)


@pytest.fixture(params=EXPORT)
def runtime(request, monkeypatch):
    """The name of a runtime whose packages are installed."""
    # OpenVINO's converter would send telemetry of each conversion from a process of its own.
    monkeypatch.setitem(sys.modules, "openvino_telemetry", None)
    for package in {
        "onnx": ("tf2onnx", "onnxruntime"),
        "litert": ("ai_edge_litert",),
        "openvino": ("openvino",),
    }[request.param]:
        pytest.importorskip(package)
    return request.param


def ask(runtime, path, batch):
    """The outputs by name, asked as a user of the runtime would."""
    if runtime == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, batch), strict=True))
    if runtime == "litert":
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter(str(path)).get_signature_runner()(**batch)
    import openvino

    answer = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(batch)
    return {
        name: value for place, value in answer.items() for name in place.names if ":" not in name
    }


class Failing(keras.layers.Layer):
    """Raises in every call except the symbolic one."""

    def call(self, inputs):
        raise ValueError("`width` must be even, got 3")

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


class Drifting(keras.layers.Layer):
    """Returns other numbers in a graph than eagerly."""

    def call(self, inputs):
        return inputs if tf.executing_eagerly() else inputs + 1e-3


def write(runtime, model, folder):
    """Export the model and check which files the folder holds."""
    function, name, files = EXPORT[runtime]
    assert function(model, folder / name) == folder / name
    assert sorted(path.name for path in folder.iterdir()) == files
    return folder / name


def assert_runs(runtime, model, folder, batch):
    """Assert that the file has Keras' outputs and no others."""
    answer = ask(runtime, write(runtime, model, folder), batch)
    outputs = keras.tree.map_structure(ops.convert_to_numpy, model(batch))
    states = outputs.pop("hidden_states", ())
    expected = {**outputs, **{f"hidden_states_{i}": state for i, state in enumerate(states)}}
    assert sorted(answer) == sorted(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(answer[key], value, atol=1e-5, err_msg=key)


def padded(rows, length):
    """A batch for BERT with one row of only padding."""
    places = np.arange(length)[None]
    return {
        "token_ids": RNG.integers(1, 15, (rows, length)).astype("int32"),
        "segment_ids": RNG.integers(2, size=(rows, length)).astype("int32"),
        "padding_mask": places < np.arange(rows)[:, None] * 3,
    }


@on_tensorflow
def test_a_bert_encoder_runs_with_unknown_lengths_and_padding(runtime, tmp_path):
    # Exact gelu, masks that may hide every key, nested outputs, unknown lengths.
    size = models.sizes.BertSize(1, 12, 3, 20, vocabulary_size=15, max_length=19)
    model = models.bert.encoder(size, hidden_states=True)
    assert_runs(runtime, model, tmp_path, padded(4, 13))


@on_tensorflow
@pytest.mark.parametrize("runtime", ["litert"], indirect=True)
def test_the_chunked_kernel_is_exported_as_the_reference_kernel(runtime, tmp_path):
    inputs = keras.Input((None, 4), name="inputs")
    attention = layers.MultiHeadSelfAttention(2, 2, causal=True, kernel="chunked")
    model = keras.Model({"inputs": inputs}, {"outputs": attention(inputs)})
    batch = {"inputs": RNG.normal(size=(3, 7, 4)).astype("float32")}
    assert_runs(runtime, model, tmp_path, batch)


@on_tensorflow
@pytest.mark.parametrize("runtime", ["litert"], indirect=True)
@pytest.mark.parametrize("masks", ["exact", "keras"])
def test_an_upgraded_model_is_exported(masks, runtime, tmp_path):
    ids = keras.Input((None,), dtype="int32", name="ids")
    hidden = keras.layers.Embedding(9, 8, mask_zero=True)(ids)
    hidden = keras.layers.MultiHeadAttention(2, 4)(hidden, hidden)
    model = keras_attn.upgrade(keras.Model({"ids": ids}, {"outputs": hidden}), masks=masks).model
    batch = {"ids": np.array([[3, 5, 0], [1, 0, 0]], "int32")}
    assert_runs(runtime, model, tmp_path, batch)


@on_tensorflow
@pytest.mark.parametrize("runtime", ["onnx"], indirect=True)
def test_a_scalar_input_with_an_unusual_name_is_exported(runtime, tmp_path):
    ids = keras.Input((), dtype="int32", name="token-id")
    model = keras.Model(ids, keras.layers.Embedding(5, 3, name="table")(ids))
    answer = ask(runtime, write(runtime, model, tmp_path), {"token_id": np.array([4, 2], "int32")})
    np.testing.assert_allclose(answer["table"], model.layers[-1].embeddings.numpy()[[4, 2]])


@on_tensorflow
def test_a_missing_operation_raises(runtime, tmp_path):
    inputs = keras.Input((3, 3))
    with pytest.raises(
        ValueError, match="`model` cannot be exported to .*: it does not have Cholesky$"
    ):
        EXPORT[runtime][0](keras.Model(inputs, ops.cholesky(inputs)), tmp_path / EXPORT[runtime][1])
    assert not list(tmp_path.iterdir())


@on_tensorflow
def test_keras_onnx_export_of_masked_attention_has_no_nan(tmp_path):
    """Its converter multiplies both sides of a `where` by 0 and 1 unless one is a constant."""
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    x = keras.Input((None, 12), name="x")
    mask = keras.Input((None,), dtype="bool", name="mask")
    hidden = layers.MultiHeadSelfAttention(3, position=layers.ALiBi(3))(x, mask=mask)
    model = keras.Model([x, mask], layers.MultiHeadSelfAttention(3, window=2)(hidden, mask=mask))
    batch = [RNG.normal(size=(3, 5, 12)).astype("float32"), np.arange(5) < [[5], [3], [0]]]
    expected = model(batch)
    model.export(str(tmp_path / "m.onnx"), format="onnx", verbose=False)
    answer = ask("onnx", tmp_path / "m.onnx", {"x": batch[0], "mask": batch[1]})
    np.testing.assert_allclose(*answer.values(), expected, atol=1e-5)


@on_tensorflow
def test_an_error_of_a_layer_is_reported(tmp_path):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    inputs = keras.Input((None, 12))
    with pytest.raises(ValueError, match="ONNX Runtime: .*`width` must be even, got 3"):
        export.to_onnx(keras.Model(inputs, Failing()(inputs)), tmp_path / "m.onnx")


@on_tensorflow
def test_a_differing_file_does_not_replace_the_existing_one(runtime, tmp_path, monkeypatch):
    path = write(runtime, small.tiny(), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    inputs = keras.Input((3,), name="numbers")
    model = keras.Model(inputs, Drifting(name="scores")(inputs))
    with pytest.raises(ValueError, match="output 'scores' of a batch of 2 rows differs from Keras"):
        EXPORT[runtime][0](model, path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@on_tensorflow
def test_an_interrupted_export_leaves_no_files(tmp_path, monkeypatch):
    def interrupted(model, path, *_, **options):
        pathlib.Path(path).write_text("half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(runtimes, "optional_module", lambda *_: None)
    monkeypatch.setattr(keras.Model, "export", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export.to_openvino(small.tiny(), tmp_path / "new" / "model.xml")
    assert not list(tmp_path.iterdir())


@on_tensorflow
@pytest.mark.parametrize("package", ["onnxruntime", "ai_edge_litert", "openvino"])
def test_a_missing_package_raises(package, tmp_path, monkeypatch):
    name = {"onnxruntime": "onnx", "ai_edge_litert": "litert", "openvino": "openvino"}[package]
    for module in ("tf2onnx", "tf2onnx.onnx_opset", package):
        monkeypatch.setitem(sys.modules, module, None)
    function, file, _ = EXPORT[name]
    with pytest.raises(
        ImportError, match=rf"to_{name} needs the package .*pip install .*\[{name}\]"
    ):
        function(small.tiny(), tmp_path / file)


@on_tensorflow
@pytest.mark.parametrize("name", EXPORT)
def test_a_wrong_file_ending_raises(name, tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end with \.\w+, got '.*model\.bin'"):
        EXPORT[name][0](small.tiny(), tmp_path / "model.bin")


@on_tensorflow
@pytest.mark.parametrize("name", EXPORT)
def test_an_invalid_model_or_path_raises(name, tmp_path):
    function, file, _ = EXPORT[name]
    with pytest.raises(ValueError, match="`model` must be functional, .* got None"):
        function(None, tmp_path / file)
    for path in (None, "", 3):
        with pytest.raises(ValueError, match=f"`path` must be a path, got {path!r}"):
            function(small.tiny(), path)
    (tmp_path / file).mkdir()
    with pytest.raises(ValueError, match=rf"`path` must be a file, got the folder '.*{file}'"):
        function(small.tiny(), tmp_path / file)


@on_tensorflow
@pytest.mark.slow
def test_openvino_sends_no_telemetry_and_writes_no_files_to_home(tmp_path):
    pytest.importorskip("openvino_telemetry")
    script = """
import sys
from keras_attn import export
from tests.export import small
export.to_openvino(small.tiny(), sys.argv[1])
import openvino_telemetry
assert not openvino_telemetry.Telemetry().consent
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "m.xml")],
        env=environment | {"HOME": str(home)},
        check=True,
    )
    assert not (home / "intel").exists()


@on_tensorflow
def test_the_guide_shows_the_measured_results():
    assert benchmark.table() in benchmark.GUIDE.read_text()


@on_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "BERT multiple choice",
        "GPT, rotary positions",
        "Transformer translator",
        "RNN translator, Bahdanau",
        "MultiHeadSelfAttention, grouped heads, causal",
        "MultiHeadSelfAttention, 2048 tokens",
        "Keras' MultiHeadAttention, upgraded",
    ],
)
def test_models_run_where_the_guide_says(name, runtime):
    (record,) = [
        record
        for record in benchmark.newest()
        if (record["model"], record["runtime"]) == (name, runtime)
    ]
    found = benchmark.measure(benchmark.models()[name], runtime)
    assert found.get("refused") == record.get("refused")


@pytest.mark.backends("jax", "torch", reason="TensorFlow's own models need no child process")
@pytest.mark.slow
def test_models_of_other_backends_are_converted_under_tensorflow(runtime, tmp_path):
    size = models.sizes.BertSize(1, 12, 3, 20, vocabulary_size=15, max_length=19)
    assert_runs(runtime, models.bert.encoder(size), tmp_path, padded(3, 8))
    with pytest.raises(
        ValueError, match="`model` cannot be exported to .*: it does not have Cholesky$"
    ):
        inputs = keras.Input((3, 3))
        EXPORT[runtime][0](keras.Model(inputs, ops.cholesky(inputs)), tmp_path / EXPORT[runtime][1])
