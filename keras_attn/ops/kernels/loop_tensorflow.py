"""A loop on TensorFlow whose steps share the memory."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def loop(count: Any, step: Callable, carry: tuple, dtypes: tuple) -> tuple:
    """Run `carry, outputs = step(index, carry)` and stack the outputs, of `dtypes`, of all steps.

    One step at a time: more in flight would multiply the memory and share the same cores.
    """
    arrays = tuple(tf.TensorArray(dtype, size=count) for dtype in dtypes)

    def body(index: Any, carry: tuple, arrays: tuple) -> tuple:
        carry, outputs = step(index, carry)
        arrays = tuple(
            array.write(index, output) for array, output in zip(arrays, outputs, strict=True)
        )
        return index + 1, carry, arrays

    _, carry, arrays = tf.while_loop(
        lambda index, *_: index < count, body, (0, carry, arrays), parallel_iterations=1
    )
    return carry, tuple(array.stack() for array in arrays)
