"""The dense product, written so that each backend's graph fuses it best."""

from collections.abc import Callable
from typing import Any

from keras import ops


def dense(
    inputs: Any, kernel: Any, bias: Any = None, activation: Callable[[Any], Any] | None = None
) -> Any:
    """`activation(inputs @ kernel + bias)` as one product of two matrices.

    TensorFlow fuses MatMul, BiasAdd and the activation into one oneDNN call only when they follow
    each other directly on a matrix, so the reshape back comes last.

    Args:
        inputs: `[..., D]`.
        kernel: `[D, F]`.
        bias: `[F]`, or None.
        activation: elementwise, or None.

    Returns:
        `[..., F]`, of the inputs' dtype.
    """
    # A symbolic variable on torch does not take part in Keras' autocast.
    kernel = ops.cast(kernel, inputs.dtype)
    lead = ops.shape(inputs)[:-1]
    # Not `ops.matmul`, which rounds float64 to float32 on torch.
    outputs = ops.reshape(inputs, (-1, inputs.shape[-1])) @ kernel  # [rows, F]
    if bias is not None:
        outputs = ops.add(outputs, ops.cast(bias, inputs.dtype))
    if activation is not None:
        outputs = activation(outputs)
    return ops.reshape(outputs, (*lead, kernel.shape[-1]))
