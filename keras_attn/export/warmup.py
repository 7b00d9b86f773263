"""Requests that a server runs before it says that it is ready."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from keras_attn.export import client, isolation
from keras_attn.export.signature import Signature

_MOST = 1000  # TF Serving refuses a file with more


def write_warmup(folder: Path, model_name: str, signatures: Mapping[str, Signature]) -> None:
    """Writes the examples of all signatures to `assets.extra/tf_serving_warmup_requests`.

    Raises:
        ValueError: there are more than TF Serving takes.
    """
    records = [
        _record(model_name, name, signature, example)
        for name, signature in signatures.items()
        for example in signature.examples
    ]
    if len(records) > _MOST:
        raise ValueError(f"`warmup` must hold at most {_MOST} batches, got {len(records)}")
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as file:
        for record in records:
            file.write(record)


def _record(model_name: str, name: str, signature: Signature, example: Mapping) -> bytes:
    request = client.predict_request(
        {"name": model_name, "signature_name": name},
        {key: isolation.as_array(value) for key, value in example.items()},
        {key: spec.dtype.name for key, spec in signature.inputs.items()},
    )
    log = client.message("PredictionLog")()
    log.predict_log.request.CopyFrom(request)
    return log.SerializeToString(deterministic=True)
