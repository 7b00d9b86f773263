"""Recomputation on TensorFlow."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def recomputed(function: Callable[..., Any], *tensors: Any) -> Any:
    """`function(*tensors)`, computed again in the backward pass.

    Everything that has a gradient must be among the tensors. (`tf.recompute_grad` takes variables
    from the scope, which are not Keras'.)
    """

    @tf.custom_gradient
    def run(*tensors: Any) -> tuple:
        def gradient(*d_outputs: Any) -> list:
            inputs = _after(d_outputs, tensors)
            with tf.GradientTape() as tape:
                tape.watch([tensor for tensor in inputs if tensor.dtype.is_floating])
                outputs = tf.nest.flatten(function(*inputs))
            floats = [i for i, output in enumerate(outputs) if output.dtype.is_floating]
            return tape.gradient(
                [outputs[i] for i in floats], inputs, [d_outputs[i] for i in floats]
            )

        # An eager tape would keep the results of all that a tensor with a gradient enters.
        return function(*map(tf.stop_gradient, tensors)), gradient

    return run(*map(tf.convert_to_tensor, tensors))  # a variable would count as a hidden input


def _after(d_outputs: tuple, tensors: tuple) -> list:
    """The same tensors, which in a graph cannot be had before the gradients.

    Otherwise the graph would see that the second computation is the first, and keep its results.
    """
    if tf.executing_eagerly():
        return list(tensors)
    first = next(d_output for d_output in d_outputs if d_output.dtype.is_floating)
    first = tf.reduce_sum(tf.reshape(first, (-1,))[:1])
    # No number is both, which no optimizer knows.
    never = tf.cast(tf.math.is_nan(first) & tf.math.is_inf(first), "float32")
    return [
        tensor + tf.cast(never, tensor.dtype) if tensor.dtype.is_floating else tensor
        for tensor in tensors
    ]
