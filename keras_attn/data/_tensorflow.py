"""tensorflow and tensorflow_text, imported when first used, and checks of strings and integers.

Importing `keras_attn` registers the layers of this package on every backend, also where tensorflow
is not installed; only calling them needs it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_attn._typing import Tensor


class _LazyModule:
    def __init__(self, name: str, package: str):
        self._name = name
        self._package = package

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # inspect and doctest read these: no reason to import
            raise AttributeError(attribute)
        try:
            module = importlib.import_module(self._name)
        except ModuleNotFoundError as error:
            raise ImportError(
                f"keras_attn.data needs the package {self._package}: pip install {self._package}"
            ) from error
        return getattr(module, attribute)


tf = _LazyModule("tensorflow", "tensorflow")
tf_text = _LazyModule("tensorflow_text", "tensorflow-text")


def require(valid: tf.Tensor, values: tf.Tensor, message: str) -> contextlib.AbstractContextManager:
    """Raise an error with the message and the invalid values unless all of them are valid.

    Args:
        valid: booleans `[n]`.
        values: strings `[n]`.
        message: what the values must be.

    Returns:
        A context manager: in a graph, operations in its `with` block run after the check.

    Raises:
        ValueError: in eager code; running a graph raises an InvalidArgumentError.
    """
    wrong = tf.boolean_mask(values, ~valid)
    if not tf.executing_eagerly():
        return tf.control_dependencies(
            [tf.debugging.Assert(tf.reduce_all(valid), [message, wrong])]
        )
    if len(wrong):
        names = [value.decode("utf-8", "replace") for value in wrong.numpy()[:5]]
        raise ValueError(f"{message}, got {', '.join(map(repr, names))}")
    return contextlib.nullcontext()


def strings(name: str, values: Tensor, shape: str = "[B]") -> tf.Tensor | tf.RaggedTensor:
    """`values` as a tensor of strings; a ragged tensor stays ragged.

    Raises:
        ValueError: an element is not a string, or lists have unequal lengths.
    """
    if not tf.is_tensor(values) and not isinstance(values, tf.RaggedTensor):
        _check_strings(name, values)
        try:
            values = tf.convert_to_tensor(values, tf.string)
        except ValueError as error:
            raise ValueError(
                f"`{name}` must have the shape {shape}, got lists of unequal length"
            ) from error
    if values.dtype != tf.string:
        raise ValueError(f"`{name}` must hold strings, got {values.dtype.name}")
    return values


def symbolic_ids(tokenizer: keras.Layer, text: keras.KerasTensor) -> keras.KerasTensor:
    """The symbolic output of a tokenizer: ids with one more ragged axis than the text."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"{type(tokenizer).__name__} in a functional model needs the TensorFlow backend, got "
            f"{keras.backend.backend()}: map it over a tf.data.Dataset instead"
        )
    rank = 1 + (text.ragged_rank or 0)
    return keras.KerasTensor((*text.shape, None), "int32", ragged=True, ragged_rank=rank)


def integers(name: str, values: Tensor) -> tf.Tensor:
    """`values` as an int32 tensor; raises a ValueError if an element is not an integer."""
    kind = (
        values.dtype.is_integer if tf.is_tensor(values) else np.asarray(values).dtype.kind in "iu"
    )
    if not kind and np.size(values):
        raise ValueError(f"`{name}` must hold integers, got {values!r}")
    return tf.cast(values, tf.int32)


def same_rows(name: str, values: Tensor, other: str, others: Tensor) -> Tensor:
    """`values` `[B, ...]`, checked to have as many rows as `others`.

    Raises:
        ValueError: the numbers of rows differ. If a graph does not know them, running it raises an
            InvalidArgumentError.
    """
    message = f"`{name}` must have as many rows as `{other}`"
    for argument, tensor in ((name, values), (other, others)):
        if tensor.shape.rank == 0:
            raise ValueError(f"`{argument}` must have one row for each example, got a scalar")
    rows, wanted = values.shape[0], others.shape[0]
    if rows is None or wanted is None:
        equal = tf.debugging.assert_equal(tf.shape(values)[0], tf.shape(others)[0], message)
        with tf.control_dependencies([equal]):
            return tf.identity(values)
    if rows != wanted:
        raise ValueError(f"{message}, {wanted}, got {rows}")
    return values


def ragged_strings(name: str, values: Tensor) -> tf.RaggedTensor:
    """`values`, a list of lists or a tensor, as a ragged tensor of strings `[B, (W)]`.

    Raises:
        ValueError: `values` has another shape, or an element is not a string.
    """
    if not tf.is_tensor(values) and not isinstance(values, tf.RaggedTensor):
        _check_strings(name, values)
        rows = values.tolist() if isinstance(values, np.ndarray) else values
        rows = [row.tolist() if isinstance(row, np.ndarray) else row for row in rows]
        flat = [row for row in rows if not isinstance(row, (list, tuple))]
        if flat:
            raise ValueError(
                f"`{name}` must have the shape [B, (W)], a list for each row, got {flat[0]!r}"
            )
        values = tf.ragged.constant(rows, dtype=tf.string, ragged_rank=1, inner_shape=())
    values = strings(name, values)
    if values.shape.rank != 2:
        raise ValueError(f"`{name}` must have the shape [B, (W)], got {values.shape}")
    if not isinstance(values, tf.RaggedTensor):
        values = tf.RaggedTensor.from_tensor(values)
    return values


def _check_strings(name: str, values: Any) -> None:
    for number, leaf in enumerate(_leaves(values)):
        if not isinstance(leaf, (str, bytes)):
            raise ValueError(f"`{name}` must hold strings, got {leaf!r} at index {number}")


def _leaves(values: Any) -> Iterator[object]:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        yield values
    else:
        for value in values:
            yield from _leaves(value)
