"""A script, not a module to import: runs SavedModels in a process that cannot import Keras.

Reads pickled messages `(path, [(signature, {input: array}, wanted), ...])` from stdin, and writes
a pickled answer to each to stdout: `(None, [...])` with the outputs of each request (empty if they
are not wanted) or the text of its error; or `(error, [])` if the path cannot be loaded. The graph
is loaded and run in a session, as TF Serving does it.
"""

import glob
import importlib.abc
import importlib.machinery
import importlib.util
import os
import pickle
import sys
import types
from collections.abc import Iterable
from typing import Any, BinaryIO

BLOCKED = ("keras", "keras_attn", "keras_hub", "keras_nlp", "tf_keras")

# The signature, the arrays by input, and whether the outputs are wanted.
Request = tuple[str, dict[str, Any], bool]


class _Blocker(importlib.abc.Loader):
    """The finder of the blocked packages: tensorflow looks for keras, but nothing may run it."""

    @staticmethod
    def find_spec(
        name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] in BLOCKED:
            return importlib.machinery.ModuleSpec(name, _Blocker(), is_package=True)
        return None

    @staticmethod
    def create_module(spec: importlib.machinery.ModuleSpec) -> None:
        return None

    @staticmethod
    def exec_module(module: types.ModuleType) -> None:
        raise ImportError(f"{module.__name__} cannot be imported here")


def run(path: str, requests: Iterable[Request]) -> list[dict[str, Any] | str]:
    """The outputs of each request, or the text of its error."""
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], path).signature_def
        return answers(session, signatures, requests)


def answers(
    session: Any, signatures: Any, requests: Iterable[Request]
) -> list[dict[str, Any] | str]:
    """The outputs of each request to a loaded SavedModel, or the text of its error."""
    import tensorflow as tf

    found: list[dict[str, Any] | str] = []
    for name, inputs, wanted in requests:
        try:
            answer = _answer(session, signatures, name, inputs)
            found.append(answer if wanted else {})
        except (KeyError, TypeError, ValueError, tf.errors.OpError) as error:
            text = error.message if isinstance(error, tf.errors.OpError) else str(error)
            found.append(f"{type(error).__name__}: {text}")
    return found


def load_libraries() -> None:
    """Load the operations of TensorFlow Text, without the package, which would import keras."""
    import tensorflow as tf

    text = importlib.util.find_spec("tensorflow_text")
    if text is not None and text.origin is not None:
        folder = os.path.join(os.path.dirname(text.origin), "python", "ops")
        for library in sorted(glob.glob(os.path.join(folder, "_*.so"))):
            tf.load_op_library(library)


def _answer(session: Any, signatures: Any, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    if name not in signatures:
        # TensorFlow's own signatures begin with "__".
        own = sorted(other for other in signatures if not other.startswith("__"))
        raise KeyError(f"no signature {name!r}, there are {', '.join(own)}")
    signature = signatures[name]
    if set(inputs) != set(signature.inputs):
        raise ValueError(
            f"{name} takes {', '.join(sorted(signature.inputs))}, got {', '.join(sorted(inputs))}"
        )
    feeds = {signature.inputs[key].name: value for key, value in inputs.items()}
    fetches = {key: tensor.name for key, tensor in signature.outputs.items()}
    return session.run(fetches, feeds)


def _serve(answer_file: BinaryIO) -> None:
    load_libraries()
    while True:
        try:
            path, requests = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = None, run(path, requests)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}", []
        pickle.dump(answer, answer_file)
        answer_file.flush()


if __name__ == "__main__":
    answer_file = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries must not print between the answers
    sys.meta_path.insert(0, _Blocker)
    _serve(answer_file)
