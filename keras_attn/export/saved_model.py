"""Writes signatures and weights as a SavedModel for TF Serving."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_attn.export import client
from keras_attn.export.signature import Signature, Tensor

_MOST_WARMUP = 1000  # TF Serving refuses a file with more


def write(
    signatures: Mapping[str, Signature], parts: Iterable[object], folder: Path
) -> dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Write the SavedModel, with every weight and every graph only once.

    Args:
        signatures: the signatures by name.
        parts: the model and the layers whose tables the signatures use.
        folder: an existing folder.

    Returns:
        The inputs and the outputs of each signature.

    Raises:
        ValueError: a signature uses a variable or a table that no part owns.
    """
    graphs = {name: signature.traced() for name, signature in signatures.items()}
    owned = [part for signature in signatures.values() for part in signature.resources]
    # Not the model itself: with Keras' objects the weights would be stored twice.
    root: Any = tf.Module()
    root.weights = list({id(v): v for graph in graphs.values() for v in graph.variables}.values())
    root.resources = list(_resources([*parts, *owned]))
    # A server computes no gradients: their functions would only make the graph larger.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    try:
        with errors_of_files():
            tf.saved_model.save(root, str(folder), graphs, options)
    except AssertionError as error:
        raise ValueError(f"a signature uses what `model` does not track: {error}") from error
    _trim(folder)
    return {
        name: (_described(signatures[name].wire()), _described(graph.structured_outputs))
        for name, graph in graphs.items()
    }


def write_warmup(
    folder: Path,
    model_name: str,
    signatures: Mapping[str, Signature],
    batches: Mapping[str, Sequence[dict[str, np.ndarray]]],
) -> None:
    """Write `assets.extra/tf_serving_warmup_requests`, which a server runs before it is ready.

    Raises:
        ValueError: there are more batches than TF Serving accepts.
    """
    records = [
        _warmup_record(model_name, name, signatures[name], batch)
        for name in batches
        for batch in batches[name]
    ]
    if len(records) > _MOST_WARMUP:
        raise ValueError(f"`warmup` must hold at most {_MOST_WARMUP} batches, got {len(records)}")
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir()
    with errors_of_files(), tf.io.TFRecordWriter(str(path)) as file:
        for record in records:
            file.write(record)


@contextlib.contextmanager
def errors_of_files() -> Iterator[None]:
    """Turn TensorFlow's errors of writing a file into an OSError."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def _resources(parts: Iterable[object]) -> Iterator[object]:
    """The tables and other resources that the parts own."""
    for part in parts:
        if part is not None:
            for owned in tf.train.TrackableView(part).descendants():
                if isinstance(owned, tf.saved_model.experimental.TrackableResource):
                    yield owned


def _described(tensors: Mapping[str, tf.Tensor | tf.TensorSpec]) -> dict[str, Tensor]:
    return {
        name: Tensor(tensor.dtype.name, tuple(tensor.shape)) for name, tensor in tensors.items()
    }


def _trim(folder: Path) -> None:
    """Remove attributes from the graph that no server needs.

    - `debug_name` of variables: newer versions of TensorFlow write it, and a server that does not
      know this attribute refuses the whole model;
    - `_gradient_op_type`: names a gradient that is not stored, which gives a warning at each load;
    - `_output_shapes`: a hint, which the loader infers again.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    graph = model.meta_graphs[0].graph_def
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            for name in ("debug_name", "_gradient_op_type", "_output_shapes"):
                node.attr.pop(name, None)
    path.write_bytes(model.SerializeToString(deterministic=True))
    (folder / "fingerprint.pb").unlink(missing_ok=True)  # that of the file before the change


def _warmup_record(model_name: str, name: str, signature: Signature, batch: Mapping) -> bytes:
    request = client.predict_request(
        {"name": model_name, "signature_name": name},
        batch,
        {key: spec.dtype.name for key, spec in signature.wire().items()},
    )
    log = client.message("PredictionLog")()
    log.predict_log.request.CopyFrom(request)
    return log.SerializeToString(deterministic=True)
