"""In which precision results are accumulated."""

from typing import Any

import keras
from keras import ops


def wide(*dtypes: Any) -> str:
    """The dtype of logits, softmax and sums: float32, or float64 where an input has it.

    >>> wide("bfloat16"), wide("float64", "float32")
    ('float32', 'float64')
    """
    return "float64" if "float64" in map(keras.backend.standardize_dtype, dtypes) else "float32"


def common(*dtypes: Any) -> str:
    """The dtype of a product: Keras' rule, which on torch would make float32 of float64."""
    return "float64" if wide(*dtypes) == "float64" else keras.backend.result_type(*dtypes)


def widen(tensor: Any) -> Any:
    """The tensor in the precision of `wide`."""
    return ops.cast(tensor, wide(tensor.dtype))


def is_float(tensor: Any) -> bool:
    """Whether a tensor or array holds floating-point numbers."""
    return "float" in keras.backend.standardize_dtype(tensor.dtype)
