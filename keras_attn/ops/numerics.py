"""Numbers: the precision of sums, softmax, rows of a table, the dense product, activations."""

from collections.abc import Callable

import keras
from keras import ops

from keras_attn import backend
from keras_attn._keras import converting, register
from keras_attn._typing import Activation, Tensor


def wide(*dtypes: str) -> str:
    """The dtype of logits, softmax and sums: float32, or float64 where an input has it.

    >>> wide("bfloat16"), wide("float64", "float32")
    ('float32', 'float64')
    """
    return "float64" if "float64" in map(keras.backend.standardize_dtype, dtypes) else "float32"


def common(*dtypes: str) -> str:
    """The dtype of a product: Keras' rule, which on torch would make float32 of float64."""
    return "float64" if wide(*dtypes) == "float64" else keras.backend.result_type(*dtypes)


def widen(tensor: Tensor) -> Tensor:
    """The tensor in the precision of `wide`."""
    return ops.cast(tensor, wide(tensor.dtype))


def mean(tensor: Tensor, axis: int) -> Tensor:
    """The mean along an axis of known length, also in float64, where `ops.mean` on torch rounds."""
    if wide(tensor.dtype) == "float32":
        return ops.mean(tensor, axis=axis)
    return ops.sum(tensor, axis=axis) / tensor.shape[axis]


def is_float(tensor: Tensor) -> bool:
    """Whether a tensor or array holds floating-point numbers."""
    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def dense(
    inputs: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """`activation(inputs @ kernel + bias)` as one product of two matrices.

    TensorFlow fuses MatMul, BiasAdd and the activation into one oneDNN call only when they follow
    each other directly on a matrix, so the reshape back comes last. A graph for a converter does
    without: tf2onnx joins the reshape with the next one, and loses the batch in between.

    Args:
        inputs: `[..., D]`.
        kernel: `[D, F]`.
        bias: `[F]`, or None.
        activation: elementwise, or None.

    Returns:
        `[..., F]`, of the inputs' dtype.
    """

    def dense_product(tensors: tuple) -> Tensor:
        inputs, kernel, bias = tensors
        lead = ops.shape(inputs)[:-1]
        rows = inputs if whole else ops.reshape(inputs, (-1, inputs.shape[-1]))
        # Not `ops.matmul`, which rounds float64 to float32 on torch.
        outputs = rows @ kernel  # [rows, F]
        if bias is not None:
            outputs = ops.add(outputs, bias)
        if activation is not None:
            outputs = backend.activated(activation, outputs)
        return outputs if whole else ops.reshape(outputs, (*lead, kernel.shape[-1]))

    inputs = ops.convert_to_tensor(inputs)
    # A symbolic variable on torch does not take part in Keras' autocast.
    kernel = ops.cast(kernel, inputs.dtype)
    bias = None if bias is None else ops.cast(bias, inputs.dtype)
    whole = None in inputs.shape and converting()
    return backend.traced_once(dense_product, ("dense", activation, whole), (inputs, kernel, bias))


def at_least(tensor: Tensor, bound: float) -> Tensor:
    """The maximum of both. Not `ops.maximum`, which rounds float64 to float32 on torch."""
    return ops.where(tensor > bound, tensor, ops.cast(bound, tensor.dtype))


def at_temperature(logits: Tensor, temperature: Tensor) -> Tensor:
    """Logits whose softmax is that of `logits / temperature`, the greatest 0.

    Divided first, they grow so large at a low temperature that one rounding more or less, as
    compilers make it, separates the greatest from itself. Within the bounds of the temperature its
    reciprocal, by which compilers multiply, is neither infinite nor zero.
    """
    if 0 in logits.shape:
        return logits  # Keras' maximum of nothing raises
    temperature = ops.clip(temperature, 1e-37, 1e37)
    return (logits - ops.max(logits, axis=-1, keepdims=True)) / temperature


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the last axis, also where it has one entry, of which Keras warns."""
    if logits.shape[-1] == 1:
        return ops.exp(logits - logits)
    return ops.softmax(logits, axis=-1)


def table_rows(table: Tensor, ids: Tensor, dtype: str) -> Tensor:
    """`table[ids]`, cast to a dtype, whose gradient is one tensor on every backend.

    The cast comes afterwards, so that the gradients of a row, which may occur thousands of times,
    are summed in the table's dtype: a sum in bfloat16 does not grow when a part is less than 1/256
    of it. On a GPU such sums are also slow.

    On TensorFlow the gradient of `ops.take` is a list of rows. If a row occurs in it several times,
    Keras' Adam and similar optimizers add the squares of the parts, not the square of their sum.
    The gradient of a reshape makes a tensor of the list.
    """
    return ops.cast(ops.take(ops.reshape(table, table.shape), ids, axis=0), dtype)


@register()
def gelu_tanh(inputs: Tensor) -> Tensor:
    """`x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`: GELU as GPT-2 and keras-hub compute it.

    Source: Hendrycks and Gimpel 2016, section 2.
    """
    return keras.activations.gelu(inputs, approximate=True)


def get_activation(activation: Activation) -> Callable[[Tensor], Tensor]:
    """The activation of that name, gelu_tanh or one of Keras'; a function is returned as it is.

    Raises:
        ValueError: Keras does not know it either.
    """
    return gelu_tanh if activation == "gelu_tanh" else keras.activations.get(activation)
