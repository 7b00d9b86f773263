"""Publishes a model of JAX or torch: saved here, loaded under TensorFlow in a child process."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras

from keras_attn.export.generation import Generation
from keras_attn.export.servable import Servable

_CHILD = "from keras_attn.export import other_backend; other_backend.run_child()"


def publish_under_tensorflow(
    model: keras.Model, base_dir: Path, layers: dict[str, Any], options: dict[str, Any]
) -> Servable:
    """What `publish` does, in a process whose backend is TensorFlow.

    Raises:
        ValueError: what `publish` says there, or that the model does not load there.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        if isinstance(options["signatures"], Generation):
            layers = {**layers, "tokenizer": options["signatures"].tokenizer}
            signatures = dataclasses.replace(options["signatures"], tokenizer=None)
            options = {**options, "signatures": signatures}
        layers = {
            name: layer and keras.saving.serialize_keras_object(layer)
            for name, layer in layers.items()
        }
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
        answer = Path(folder, "answer")
        process = subprocess.run(
            [sys.executable, "-c", _CHILD],
            input=pickle.dumps((path, base_dir, layers, options, answer)),
            capture_output=True,
            env=environment,
        )
        if not answer.exists():
            text = process.stderr.decode(errors="replace").strip()
            raise ValueError(f"`model` cannot be published under TensorFlow: {text[-2000:]}")
        result = pickle.loads(answer.read_bytes())
    if isinstance(result, str):
        raise ValueError(result)
    return result


def run_child() -> None:
    """The child's part: reads from stdin what to publish, writes what came of it to a file."""
    from keras_attn.export.saved_model import publish

    path, base_dir, layers, options, answer = pickle.load(sys.stdin.buffer)
    model = keras.models.load_model(path)
    layers = {
        name: layer and keras.saving.deserialize_keras_object(layer)
        for name, layer in layers.items()
    }
    tokenizer = layers.pop("tokenizer", None)
    if tokenizer is not None:
        options["signatures"] = dataclasses.replace(options["signatures"], tokenizer=tokenizer)
    try:
        result: Servable | str = publish(model, base_dir, **layers, **options)
    except ValueError as error:
        result = str(error)
    answer.write_bytes(pickle.dumps(result))
