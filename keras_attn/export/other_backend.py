"""A child process under TensorFlow, for models of JAX and torch."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras

from keras_attn._typing import Nested
from keras_attn.export import isolation


def run(function: Callable[..., Nested], model: keras.Model, *arguments: Nested) -> Nested:
    """Call `function(model, *arguments)` in a child process, which loads the saved model.

    Args:
        function: a function of a module that can be imported.
        model: a model of JAX or torch.
        *arguments: further arguments, which must be picklable.

    Raises:
        ValueError: `function` raised it, or the model does not load in the child process.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, answer = Path(folder, "model.keras"), Path(folder, "answer")
        model.save(path)
        process = subprocess.run(
            [sys.executable, "-c", f"import {__name__} as child; child.main()"],
            input=pickle.dumps((path, function, arguments, answer)),
            capture_output=True,
            env=isolation.quiet_environment(KERAS_BACKEND="tensorflow"),
        )
        if not answer.exists():
            text = process.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise ValueError(f"`model` cannot be exported under TensorFlow: {text}")
        result, problem = pickle.loads(answer.read_bytes())
    if problem is not None:
        raise ValueError(problem)
    return result


def main() -> None:
    """Answer the pickled request of `run`, in the child process."""
    path, function, arguments, answer = pickle.load(sys.stdin.buffer)
    result = problem = None
    try:
        with loading():
            model = keras.models.load_model(path)
        result = function(model, *arguments)
    except ValueError as error:
        problem = str(error)
    answer.write_bytes(pickle.dumps((result, problem)))


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Turn any error of loading a model of another backend into a ValueError."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"`model` cannot be loaded under TensorFlow: {type(error).__name__}: {error}"
        ) from error
