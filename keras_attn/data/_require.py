"""Checks of what only the data can tell: a ValueError at once, or an assertion in a graph."""

from __future__ import annotations

import contextlib

from keras_attn.data._imports import tf


def require(right: tf.Tensor, values: tf.Tensor, message: str) -> contextlib.AbstractContextManager:
    """Unless all of `right` `[n]` is True, an error that names those of `values` `[n]` at fault.

    Use what it returns as `with` around what must not run otherwise.

    Raises:
        ValueError: in eager code; in a graph its run ends in an InvalidArgumentError.
    """
    wrong = tf.boolean_mask(values, ~right)
    if not tf.executing_eagerly():
        return tf.control_dependencies(
            [tf.debugging.Assert(tf.reduce_all(right), [message, wrong])]
        )
    if len(wrong):
        names = [value.decode("utf-8", "replace") for value in wrong.numpy()[:5]]
        raise ValueError(f"{message}, got {', '.join(map(repr, names))}")
    return contextlib.nullcontext()
