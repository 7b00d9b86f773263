"""Writes files for ONNX Runtime, LiteRT and OpenVINO, and compares their outputs with Keras."""

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

from keras_attn._checks import optional_module, to_path
from keras_attn._typing import Nested
from keras_attn.export import isolation, other_backend, versions
from keras_attn.export.signature import input_names
from keras_attn.export.signatures import functional, input_specs, named

Batch = dict[str, np.ndarray]
# The numbers of rows and the lengths of the batches that are compared, where the model has None.
CHECKED = ((2, 11), (3, 8), (1, 5))
TOLERANCE = 1e-4
# The text before the name of an operation in errors of LiteRT's converter, ONNX Runtime, OpenVINO.
_MISSING = re.compile(r"(?:\btf\.|No Op registered for |found for operations: )([A-Z]\w+)")


def to_onnx(model: keras.Model, path: str | os.PathLike) -> Path:
    """Write a `.onnx` file for ONNX Runtime; needs `pip install keras_attn[onnx]`.

    A temporary file is written first. ONNX Runtime runs it on batches of three sizes, with padding,
    and the outputs are compared with those of Keras. If they agree, the file is moved to `path`.
    Batch size and length may vary if they may in the model. Inputs and outputs have the same names
    as with `keras_attn.export.publish`: those of the model, with `_` for every character that is
    not a letter or a digit. On JAX and torch a child process with TensorFlow converts the model.

    Args:
        model: functional, or sequential and built; in float32.
        path: the file.

    Returns:
        The path.

    Raises:
        ImportError: a package is missing; the message says what to install.
        ValueError: `path` has another ending or cannot be written, the format or the runtime lacks
            an operation of the model, or an output differs from that of Keras. `path` is then not
            changed.

    Example:
    >>> from keras_attn.models import bert
    >>> to_onnx(bert.encoder("bert_tiny", vocabulary_size=20), "model.bin")
    Traceback (most recent call last):
    ValueError: `path` must end with .onnx, got 'model.bin'
    """
    return _write(model, path, "onnx")


def to_litert(model: keras.Model, path: str | os.PathLike) -> Path:
    """Write a `.tflite` file for LiteRT; needs `pip install keras_attn[litert]`.

    Checks, arguments, result and errors are those of `to_onnx`. The file has only LiteRT's own
    operations, none of TensorFlow's ("Flex"), and one signature with named inputs and outputs.

    Args:
        model: as in `to_onnx`.
        path: the file.
    """
    return _write(model, path, "litert")


def to_openvino(model: keras.Model, path: str | os.PathLike) -> Path:
    """Write a `.xml` file for OpenVINO; needs `pip install keras_attn[openvino]`.

    Checks, arguments, result and errors are those of `to_onnx`. The weights are in a `.bin` file in
    the same folder. During the call, OpenVINO's usage statistics are off. The comparison runs in
    float32; on a processor with bfloat16, OpenVINO computes in bfloat16 unless the model is
    compiled with `{"INFERENCE_PRECISION_HINT": "f32"}`.

    Args:
        model: as in `to_onnx`.
        path: the file.
    """
    with _no_statistics():
        return _write(model, path, "openvino")


@contextlib.contextmanager
def _no_statistics() -> Iterator[None]:
    """Switch off OpenVINO's usage statistics, by the variable CI.

    Otherwise OpenVINO sends them and writes an id to the user's home directory. The only other way
    to switch them off is a file in that directory.
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
    """The largest difference between the outputs of a model and those of its file in the runtime.

    Args:
        model: a model with a dict of inputs and a dict of outputs, named as in the file.
        path: the file.
        runtime: onnx, litert or openvino.

    Raises:
        ValueError: an output has another name or shape, or differs by more than `TOLERANCE`.
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
    """The model with a flat dict of inputs and a flat dict of outputs; it shares the weights.

    All converters keep the names of a dict. Without names OpenVINO adds outputs, and no converter
    takes nested inputs or outputs.
    """
    model = functional(model)
    specs = input_specs(model)
    inputs = {
        name: keras.Input(batch_shape=tuple(spec.shape), dtype=spec.dtype.name, name=name)
        for name, spec in zip(input_names(specs), specs.values(), strict=True)
    }
    outputs = model(keras.tree.pack_sequence_as(model.input, list(inputs.values())))
    # Sorted, as in TensorFlow's graphs: Keras assigns the names for OpenVINO by their order.
    return keras.Model(dict(sorted(inputs.items())), named(outputs, model), name=model.name)


def _write(model: keras.Model, path: str | os.PathLike, name: str) -> Path:
    runtime, target = _RUNTIMES[name], to_path("path", path)
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
        except Exception as error:  # each converter and runtime has its own errors
            raise ValueError(
                f"`model` cannot be exported to {runtime.title}: {_reason(error)}"
            ) from error
        versions.reach_disk(folder)
        *weights, file = sorted(folder.iterdir(), key=lambda file: file.name == target.name)
        if weights:  # an old graph must not be loaded with new weights
            target.unlink(missing_ok=True)
        for written in (*weights, file):
            written.replace(target.with_name(written.name))
        folder.rmdir()
    return target


def _reason(error: Exception) -> str:
    """The missing operations, found in a long text about nodes of the graph, or the text itself."""
    text = str(error).partition("\n\nArguments received by ")[0]  # Keras shows tensors there
    missing = sorted(set(_MISSING.findall(text)))
    if missing:
        return f"it does not have {', '.join(missing)}"
    return " ".join(text.split())


def _batch(inputs: Mapping[str, Nested], rows: int, length: int) -> Batch:
    """A batch in which each row is shorter by two than the one before; padding is False and 0."""
    rng, batch = np.random.default_rng(length), {}
    for name, tensor in inputs.items():
        shape = [tensor.shape[0] or rows, *(size or length for size in tensor.shape[1:])]
        if tensor.dtype == "string":
            raise ValueError(f"its inputs must be numbers, got strings for {name!r}")
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
            # Keras' patch of tf2onnx tests whether numpy has np.object.
            warnings.filterwarnings("ignore", r".*np\.object", FutureWarning)
            _keras_export(model, path, "onnx")
    finally:
        known.clear()
        known.update(before)


def _where(graph: Any, node: Any, **_: Any) -> None:
    """Convert SelectV2 to Where; tf2onnx multiplies by 0 and 1, which gives NaN for infinity."""
    node.type = "Where"


def _erfc(graph: Any, node: Any, **_: Any) -> None:
    """Convert Erfc, which exact gelu uses: ONNX has only Erf, and `erfc(x) = 1 - erf(x)`."""
    dtype, shape = graph.get_dtype(node.output[0]), graph.get_shape(node.output[0])
    graph.remove_node(node.name)
    one = graph.make_const(f"{node.name}/one", np.ones((), "float32"))
    erf = graph.make_node("Erf", node.input)
    graph.make_node(
        "Sub", [one.name, erf.output[0]], outputs=node.output, shapes=[shape], dtypes=[dtype]
    )


def _to_litert(model: keras.Model, path: Path) -> None:
    lite: Any = tf.lite  # loaded lazily: type checkers do not know its names
    own = {"supported_ops": [lite.OpsSet.TFLITE_BUILTINS]}
    _keras_export(model, path, "litert", target_spec=own)


def _to_openvino(model: keras.Model, path: Path) -> None:
    _keras_export(model, path, "openvino")


def _in_onnx(path: Path, batches: Iterable[Batch]) -> list[Batch]:
    runtime = optional_module("onnxruntime", "onnx", "to_onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, they need not be printed
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
    # An output may have several names: the given ones, and one of a node in TensorFlow's graph.
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
    """A runtime: its name, the ending of its files, and the functions that write and run them."""

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
