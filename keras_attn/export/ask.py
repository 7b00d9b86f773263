"""Asks a servable in a process of its own, in which Keras cannot be imported."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from keras_attn.export import isolation


def ask(path: str | os.PathLike, signature: str = "serving_default", **inputs: Any) -> dict:
    """The answer of a SavedModel to one batch, from a process without keras and keras_attn.

    It starts Python and loads the model for this one question, which takes seconds: it shows that
    the folder needs nothing else. A server is asked with `export.client`.

    Args:
        path: of the version's folder.
        signature: which one to ask.
        **inputs: by name, lists or arrays with the batch first.

    Returns:
        A dict of arrays, strings decoded.

    Raises:
        ValueError: the request failed; with the error's text.
        RuntimeError: the process failed, as for a folder without a SavedModel.
    """
    arrays = {name: isolation.as_array(value) for name, value in inputs.items()}
    (answer,) = isolation.run(path, [(signature, arrays)])
    if isinstance(answer, str):
        raise ValueError(f"`{signature}` of {os.fspath(path)} failed: {answer}")
    return {name: _decoded(value) for name, value in answer.items()}


def _decoded(array: Any) -> np.ndarray:
    """Bytes as strings, other arrays as they are."""
    array = np.asarray(array)
    if array.dtype == object or array.dtype.kind == "S":
        flat = [item.decode(errors="replace") for item in array.ravel()]
        return np.array(flat, object).reshape(array.shape)
    return array
