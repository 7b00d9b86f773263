"""Files for ONNX Runtime, LiteRT and OpenVINO, compared with Keras in the runtime itself."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_attn._checks import optional_module
from keras_attn.export import isolation, other_backend, versions
from keras_attn.export.signature import input_names
from keras_attn.export.signatures import functional, input_specs, named

Batch = dict[str, np.ndarray]
# Rows and length of what is compared, where the model leaves them open.
CHECKED = ((2, 11), (3, 8), (1, 5))
TOLERANCE = 1e-4
# Before the name of an operation: in errors of LiteRT's converter, ONNX Runtime and OpenVINO.
_LACKING = re.compile(r"(?:\btf\.|No Op registered for |found for operations: )([A-Z]\w+)")


def to_onnx(model: keras.Model, path: str | os.PathLike) -> Path:
    """Writes `path`, a file `.onnx`, for ONNX Runtime: `pip install keras_attn[onnx]`.

    First a temporary file is written beside `path`, ONNX Runtime computes batches of three sizes
    with padding from it, and the outputs are compared with Keras'. If they agree, the file takes
    the place of `path`. Batch and length may vary where they may in the model. Inputs and outputs
    have the names that `keras_attn.export.publish` gives: those of the model, with `_` for every
    character that is not a letter or a digit. On JAX and torch a process with TensorFlow converts
    the model.

    Args:
        model: functional, or sequential and built; in float32.
        path: the file.

    Returns:
        The path.

    Raises:
        ImportError: a package is missing; says what to install.
        ValueError: `path` has another ending or cannot be written; the format or the runtime lacks
            an operation of the model; an output differs from Keras'. Then `path` stays as it was.

    Example:
    >>> from keras_attn.models import bert
    >>> to_onnx(bert.encoder("bert_tiny", vocabulary_size=20), "model.bin")
    Traceback (most recent call last):
    ValueError: `path` must end with .onnx, got 'model.bin'
    """
    return _write(model, path, "onnx")


def to_litert(model: keras.Model, path: str | os.PathLike) -> Path:
    """Writes `path`, a file `.tflite`, for LiteRT: `pip install keras_attn[litert]`.

    As `to_onnx`, with the same arguments, result and errors. The file has only LiteRT's own
    operations, none of TensorFlow's ("Flex"), and one signature, whose inputs and outputs are
    named.

    Args:
        model: as in `to_onnx`.
        path: the file.
    """
    return _write(model, path, "litert")


def to_openvino(model: keras.Model, path: str | os.PathLike) -> Path:
    """Writes `path`, a file `.xml`, for OpenVINO: `pip install keras_attn[openvino]`.

    As `to_onnx`, with the same arguments, result and errors. The weights are in a file `.bin`
    beside `path`. OpenVINO's usage statistics are off meanwhile. The comparison runs in float32; on
    a processor with bfloat16, OpenVINO rounds to bfloat16 unless it is compiled with
    `{"INFERENCE_PRECISION_HINT": "f32"}`.

    Args:
        model: as in `to_onnx`.
        path: the file.
    """
    with _no_statistics():
        return _write(model, path, "openvino")


@contextlib.contextmanager
def _no_statistics() -> Iterator[None]:
    """OpenVINO sends none, and keeps no id in the user's home, where this variable is true.

    The other way to tell it so is a file in that home.
    """
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before


def compare(model: keras.Model, path: Path, runtime: str) -> float:
    """The largest difference between the outputs of a model and of its file, in the runtime.

    Args:
        model: with a dict of inputs and a dict of outputs, named as in the file.
        path: the file.
        runtime: onnx, litert or openvino.

    Raises:
        ValueError: an output has another name or shape, or differs by more than the tolerance.
    """
    batches = [_batch(model.input, rows, length) for rows, length in CHECKED]
    largest = 0.0
    for batch, outputs in zip(batches, _RUNTIMES[runtime].run(path, batches), strict=True):
        expected = {name: np.asarray(value) for name, value in model(batch).items()}
        if set(outputs) != set(expected):
            raise ValueError(f"it gives the outputs {sorted(outputs)}, Keras {sorted(expected)}")
        for name, value in expected.items():
            what = f"output {name!r} of a batch of {len(next(iter(batch.values())))} rows"
            difference = isolation.compare_arrays(what, value, outputs[name], TOLERANCE)
            largest = max(largest, difference)
    return largest


def plain(model: keras.Model) -> keras.Model:
    """The model between a dict of inputs and a dict of outputs, which share its weights.

    All converters keep the names of a dict. Without them OpenVINO adds outputs, and none takes
    nested ones.
    """
    model = functional(model)
    specs = input_specs(model)
    inputs = {
        name: keras.Input(batch_shape=tuple(spec.shape), dtype=spec.dtype.name, name=name)
        for name, spec in zip(input_names(specs), specs.values(), strict=True)
    }
    outputs = model(keras.tree.pack_sequence_as(model.input, list(inputs.values())))
    # Sorted, as TensorFlow's graphs have them: Keras gives OpenVINO the names by their order.
    return keras.Model(dict(sorted(inputs.items())), named(outputs, model), name=model.name)


def _write(model: keras.Model, path: str | os.PathLike, name: str) -> Path:
    runtime, target = _RUNTIMES[name], versions.to_path("path", path)
    if target.suffix != runtime.ending:
        raise ValueError(f"`path` must end with {runtime.ending}, got {os.fspath(path)!r}")
    if target.is_dir():
        raise ValueError(f"`path` must be a file, got the folder {os.fspath(path)!r}")
    for package in runtime.packages:
        optional_module(package, name, f"to_{name}")
    if keras.backend.backend() != "tensorflow":
        return other_backend.run(_write, functional(model), target, name)
    model = plain(model)
    with versions.written_beside(target.parent, "path") as folder:
        file = folder / target.name
        try:
            runtime.export(model, file)
            compare(model, file, name)
        except Exception as error:  # each converter and runtime has errors of its own
            raise ValueError(f"`model` cannot go to {runtime.title}: {_reason(error)}") from error
        versions.reach_disk(folder)
        *weights, file = sorted(folder.iterdir(), key=lambda file: file.name == target.name)
        if weights:  # an old graph must not meet new weights
            target.unlink(missing_ok=True)
        for written in (*weights, file):
            written.replace(target.with_name(written.name))
        folder.rmdir()
    return target


def _reason(error: Exception) -> str:
    """The operations that are lacking, found in pages about places in the graph, or the text."""
    text = str(error).partition("\n\nArguments received by ")[0]  # Keras shows tensors there
    lacking = sorted(set(_LACKING.findall(text)))
    if lacking:
        return f"it does not have {', '.join(lacking)}"
    return " ".join(text.split())


def _batch(inputs: Mapping[str, Any], rows: int, length: int) -> Batch:
    """Rows of which each is shorter by two than the one before; False and 0 are padding."""
    rng, batch = np.random.default_rng(length), {}
    for name, tensor in inputs.items():
        shape = [tensor.shape[0] or rows, *(size or length for size in tensor.shape[1:])]
        if tensor.dtype == "string":
            raise ValueError(f"it must take numbers, got the input {name!r} of strings")
        if keras.backend.is_float_dtype(tensor.dtype):
            values = rng.normal(size=shape)
        else:
            values = np.ones(shape) if tensor.dtype == "bool" else rng.integers(2, size=shape)
            for row, places in enumerate(values if len(shape) > 1 else ()):
                places[..., max(1, shape[-1] - 2 * row) :] = 0
        batch[name] = values.astype(tensor.dtype)
    return batch


def _keras_export(model: keras.Model, path: Path, runtime: str, **options: Any) -> None:
    specs = {
        name: keras.InputSpec(shape=tensor.shape, dtype=tensor.dtype, name=name)
        for name, tensor in model.input.items()
    }
    model.export(str(path), runtime, verbose=False, input_signature=[specs], **options)


def _to_onnx(model: keras.Model, path: Path) -> None:
    handler = optional_module("tf2onnx.handler", "onnx", "to_onnx")
    known = handler.tf_op.get_opsets()[""][9]
    before = dict(known)
    known.update({"Erfc": (_erfc, {}), "SelectV2": (_where, {})})
    try:
        with warnings.catch_warnings():
            # Keras' patch of tf2onnx looks whether numpy has np.object.
            warnings.filterwarnings("ignore", r".*np\.object", FutureWarning)
            _keras_export(model, path, "onnx")
    finally:
        known.clear()
        known.update(before)


def _where(graph: Any, node: Any, **_: Any) -> None:
    """Where tf2onnx multiplies with 0 and 1, infinity and NaN at a hidden place make NaN."""
    node.type = "Where"


def _erfc(graph: Any, node: Any, **_: Any) -> None:
    """Exact gelu has it, and ONNX only erf: `erfc(x) = 1 - erf(x)`."""
    dtype, shape = graph.get_dtype(node.output[0]), graph.get_shape(node.output[0])
    graph.remove_node(node.name)
    one = graph.make_const(f"{node.name}/one", np.ones((), "float32"))
    erf = graph.make_node("Erf", node.input)
    graph.make_node(
        "Sub", [one.name, erf.output[0]], outputs=node.output, shapes=[shape], dtypes=[dtype]
    )


def _to_litert(model: keras.Model, path: Path) -> None:
    lite: Any = tf.lite  # loaded late, so that type checkers see nothing in it
    own = {"supported_ops": [lite.OpsSet.TFLITE_BUILTINS]}
    _keras_export(model, path, "litert", target_spec=own)


def _to_openvino(model: keras.Model, path: Path) -> None:
    _keras_export(model, path, "openvino")


def _in_onnx(path: Path, batches: Iterable[Batch]) -> list[Batch]:
    runtime = optional_module("onnxruntime", "onnx", "to_onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what it would print is raised
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, batch), strict=True)) for batch in batches]


def _in_litert(path: Path, batches: Iterable[Batch]) -> list[Batch]:
    interpreter = optional_module("ai_edge_litert.interpreter", "litert", "to_litert")
    run = interpreter.Interpreter(str(path)).get_signature_runner()
    return [run(**batch) for batch in batches]


def _in_openvino(path: Path, batches: Iterable[Batch]) -> list[Batch]:
    core = optional_module("openvino", "openvino", "to_openvino").Core()
    run = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # An output may have several names: those given, and one of a place in TensorFlow's graph.
    return [
        {
            name: value
            for place, value in run(batch).items()
            for name in [name for name in place.names if ":" not in name] or place.names
        }
        for batch in batches
    ]


@dataclasses.dataclass(frozen=True)
class _Runtime:
    """A runtime: what a file for it is called, who writes it, and who runs it on batches."""

    title: str
    ending: str
    packages: tuple[str, ...]
    export: Callable[[keras.Model, Path], None]
    run: Callable[[Path, Iterable[Batch]], list[Batch]]


_RUNTIMES = {
    "onnx": _Runtime(
        "ONNX Runtime", ".onnx", ("tf2onnx.onnx_opset", "onnxruntime"), _to_onnx, _in_onnx
    ),
    "litert": _Runtime("LiteRT", ".tflite", ("ai_edge_litert",), _to_litert, _in_litert),
    "openvino": _Runtime("OpenVINO", ".xml", ("openvino",), _to_openvino, _in_openvino),
}
