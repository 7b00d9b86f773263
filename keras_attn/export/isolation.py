"""Runs and checks SavedModels in a separate process that cannot import Keras."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_attn.export import fresh_process
from keras_attn.export.signature import DEFAULT, Signature, as_array


class FreshProcess:
    """A Python process that cannot import keras and keras_attn; a context manager.

    It starts when it is created, and imports tensorflow while the caller continues.
    """

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, fresh_process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=quiet_environment(),
        )
        self._to: Any = self._process.stdin
        self._from: Any = self._process.stdout

    def run(self, path: str | os.PathLike, requests: Sequence[tuple[str, dict, bool]]) -> list:
        """The answers to requests `(signature, inputs, wanted)`.

        An answer is a dict of arrays, empty if the outputs are not wanted, or the text of an error.

        Raises:
            RuntimeError: the path cannot be loaded, or the process ended.
        """
        try:
            pickle.dump((os.fspath(path), list(requests)), self._to)
            self._to.flush()
            problem, answers = pickle.load(self._from)
        except (BrokenPipeError, EOFError):
            self._process.wait()
            self._errors.seek(0)
            text = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            problem, answers = f"it ended with status {self._process.returncode}: {text}", []
        if problem is not None:
            raise RuntimeError(f"{os.fspath(path)} does not run in a fresh process: {problem}")
        return answers

    def __enter__(self) -> FreshProcess:
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()  # it has nothing to save
        self._process.communicate()
        self._errors.close()


def quiet_environment(**variables: str) -> dict[str, str]:
    """The environment of a child process: no accelerator, and TensorFlow logs only errors.

    The work is small, and another process may use the accelerator for training.
    """
    quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return {**os.environ, **quiet, **variables}


def ask(path: str | os.PathLike, signature: str = DEFAULT, **inputs: Any) -> dict:
    """The answer of a SavedModel to one batch, from a process without keras and keras_attn.

    Each call starts Python and loads the model, which takes seconds. It shows that the folder needs
    neither keras nor keras_attn. For requests to a server, use `export.client`.

    Args:
        path: the folder of the version.
        signature: the name of the signature.
        **inputs: lists or arrays by the name of the input, with the batch first.

    Returns:
        A dict of arrays; strings are decoded.

    Raises:
        ValueError: the request failed; the message has the text of the error.
        RuntimeError: the process failed, for example because the folder has no SavedModel.
    """
    arrays = {name: as_array(value) for name, value in inputs.items()}
    with FreshProcess() as process:
        (answer,) = process.run(path, [(signature, arrays, True)])
    if isinstance(answer, str):
        raise ValueError(f"`{signature}` of {os.fspath(path)} failed: {answer}")
    return {name: _decoded(value) for name, value in answer.items()}


def check(
    process: FreshProcess,
    path: str | os.PathLike,
    signatures: Mapping[str, Signature],
    batches: Mapping[str, Sequence[dict[str, np.ndarray]]],
    tolerance: float,
) -> None:
    """Run all batches of each signature in the process, and compare the first with Keras.

    Args:
        process: the process.
        path: the folder of the SavedModel.
        signatures: the signatures by name.
        batches: for each name a list of batches from `Signature.batch`.
        tolerance: the allowed difference, relative to 1 plus the absolute value.

    Raises:
        ValueError: a signature fails, or an output differs or does not have the batch first; the
            message names it.
    """
    requests = [
        (name, batch, not index) for name in signatures for index, batch in enumerate(batches[name])
    ]
    answers = process.run(path, requests)
    for (name, batch, compared), answer in zip(requests, answers, strict=True):
        if isinstance(answer, str):
            shapes = ", ".join(f"{key} {list(value.shape)}" for key, value in batch.items())
            raise ValueError(
                f"the signature {name!r} fails in a fresh process with {shapes}: {answer}"
            )
        if compared:
            rows = len(next(iter(batch.values())))
            _compare(name, signatures[name](batch), answer, rows, tolerance)


def _compare(name: str, expected: dict, answer: dict, rows: int, tolerance: float) -> None:
    if set(expected) != set(answer):
        raise ValueError(
            f"the signature {name!r} gives the outputs {sorted(answer)}, Keras {sorted(expected)}"
        )
    for key, value in expected.items():
        what = f"the signature {name!r}, output {key!r}"
        if value.shape[:1] != (rows,):
            raise ValueError(f"{what} must have the batch first, got {value.shape}")
        compare_arrays(what, value.numpy(), answer[key], tolerance)


def compare_arrays(what: str, expected: np.ndarray, got: np.ndarray, tolerance: float) -> float:
    """The largest difference from Keras' output; equal infinities or two NaN are no difference.

    Raises:
        ValueError: a difference exceeds the tolerance, relative to 1 plus the absolute value; the
            message begins with `what`.
    """
    if expected.shape != got.shape:
        raise ValueError(f"{what} gives {got.shape}, Keras {expected.shape}")
    if expected.dtype.kind == "f":
        same = (expected == got) | (np.isnan(expected) & np.isnan(got))
        with np.errstate(invalid="ignore"):
            difference = np.where(same, 0, np.abs(expected - got))
            close = same | (difference <= tolerance * (1 + np.abs(expected)))
        close &= np.isfinite(expected) == np.isfinite(got)
        if not close.all():
            raise ValueError(
                f"{what} differs from Keras by {np.max(difference):.2g}, more than {tolerance}"
            )
        return float(difference.max(initial=0))
    # In half precision, candidates with close scores may change places.
    if tolerance < 1e-3 and not (expected == got).all():
        raise ValueError(f"{what} differs from Keras: {got} is not {expected}")
    return 0.0


def _decoded(array: Any) -> np.ndarray:
    """An array of bytes as strings; other arrays unchanged."""
    array = np.asarray(array)
    if array.dtype == object or array.dtype.kind == "S":
        flat = [item.decode(errors="replace") for item in array.ravel()]
        return np.array(flat, object).reshape(array.shape)
    return array
