"""Runs a SavedModel in a process of its own, in which Keras cannot be imported."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_attn.export import fresh_process


def run(path: str | os.PathLike, requests: Sequence[tuple[str, dict[str, Any]]]) -> list:
    """The answers of a fresh process: a dict of arrays each, or the text of an error."""
    # The servable is small work: no accelerator is taken from whoever trains beside it.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.run(
        [sys.executable, fresh_process.__file__],
        input=pickle.dumps((os.fspath(path), list(requests))),
        capture_output=True,
        env=environment,
    )
    if process.returncode:
        text = process.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"{os.fspath(path)} does not run in a fresh process: {text[-2000:]}")
    return pickle.loads(process.stdout)


def as_array(value: Any) -> np.ndarray:
    """Strings as an array of objects, which sessions and numpy take for any length."""
    array = np.asarray(value)
    if array.dtype.kind in "US" or array.dtype == object:
        flat = [item.encode() if isinstance(item, str) else item for item in array.ravel()]
        encoded = np.empty(len(flat), object)
        encoded[:] = flat
        return encoded.reshape(array.shape)
    return array
