"""A signature before it is written: a function of named tensors, with inputs to try it on.

B batch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

DEFAULT = "serving_default"
# Names that TensorFlow's loader or Keras' archive keep for themselves.
_RESERVED = ("variables", "trainable_variables", "non_trainable_variables")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a server offers under one name.

    Args:
        function: takes the inputs by name, returns a dict of tensors, batch first. Floats leave
            the server as float32, integers and booleans as int64.
        inputs: name to `tf.TensorSpec`, with None where a size may vary.
        examples: batches, each name to list or array; the first checks, all of them warm up.
        resources: layers and tables that `function` uses, besides the model.
    """

    function: Callable[..., dict[str, Any]]
    inputs: dict[str, tf.TensorSpec]
    examples: Sequence[dict[str, Any]]
    resources: Sequence[Any] = ()

    def __call__(self, **inputs: Any) -> dict[str, tf.Tensor]:
        """The named outputs in the types that a server can write as JSON."""
        tensors = {
            name: tf.convert_to_tensor(value, self.inputs[name].dtype)
            for name, value in inputs.items()
        }
        return {name: _plain(value) for name, value in self.function(**tensors).items()}

    def traced(self) -> tf.types.experimental.GenericFunction:
        """A graph of it, for the shapes and types of `inputs`."""
        function = tf.function(self.__call__, autograph=False)
        specs = {
            name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in self.inputs.items()
        }
        function.get_concrete_function(**specs)
        return function


def check_name(name: str) -> None:
    """Raises a ValueError for a name that TF Serving or a client could not use."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _RESERVED:
        raise ValueError(
            "`signatures` must have names of letters, digits and _ that start with a letter and "
            f"are none of {', '.join(_RESERVED)}, got {name!r}"
        )


def _plain(value: Any) -> tf.Tensor:
    value = tf.convert_to_tensor(value)
    if value.dtype.is_floating:
        return tf.cast(value, tf.float32)
    return value if value.dtype == tf.string else tf.cast(value, tf.int64)
