"""A function as one compiled program, on every backend."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import keras


def compiled(
    function: Callable[..., Any], variables: Sequence[keras.Variable] = (), xla: bool = False
) -> Callable[..., Any]:
    """The same function from tensors to tensors, compiled as a whole: loops stay loops.

    A tf.function on TensorFlow, jitted on JAX; torch runs it as it is, without gradients.

    Args:
        function: of tensors, numpy arrays and nests of them.
        variables: the weights that it reads, so that a change of theirs is seen.
        xla: whether XLA compiles it on TensorFlow too; each shape then compiles anew.

    Example:
    >>> import numpy as np
    >>> from keras import ops
    >>> double = compiled(lambda inputs: 2 * ops.convert_to_tensor(inputs))
    >>> ops.convert_to_numpy(double(np.array([1, 2]))).tolist()
    [2, 4]
    """
    backend = keras.backend.backend()
    module = importlib.import_module(f"keras_attn.ops.kernels.compiled_{backend}")
    return module.compiled(function, variables, xla)
