"""Compiled functions on TensorFlow."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def compiled(function: Callable[..., Any], variables: Any, xla: bool) -> Callable[..., Any]:
    """See `keras_attn.ops.compilation`; a graph reads variables as they are when it runs."""
    return tf.function(function, autograph=False, jit_compile=xla or None)
