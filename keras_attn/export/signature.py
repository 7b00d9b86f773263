"""Signatures before they are written: functions of named tensors, with example inputs.

Letters: B batch.
"""

from __future__ import annotations

import dataclasses
import keyword
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_attn._typing import Nested

DEFAULT = "serving_default"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# JSON requests cannot have these types: they are sent in a type that holds all of their values.
_WIRE = {tf.float16: tf.float32, tf.bfloat16: tf.float32, tf.uint16: tf.int32}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of a signature; None stands for any size."""

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join('?' if n is None else str(n) for n in self.shape)}]"


@dataclasses.dataclass(frozen=True)
class Servable:
    """One version of a servable on disk.

    `signatures` maps a signature's name to `(inputs, outputs)`, each a dict of `Tensor`.
    """

    path: Path
    version: int
    signatures: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]

    def __str__(self) -> str:
        lines = [str(self.path)]
        for name, (inputs, outputs) in self.signatures.items():
            lines.append(f"  {name}")
            lines += [f"    <- {key}: {tensor}" for key, tensor in inputs.items()]
            lines += [f"    -> {key}: {tensor}" for key, tensor in outputs.items()]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function that a server offers under one name.

    Args:
        function: takes the inputs by name and returns a dict of tensors with the batch first.
            Nested dicts and lists are flattened, their names joined by `_`. Floating-point outputs
            are sent as float32, integers and booleans as int64.
        inputs: a dict from a name to a `tf.TensorSpec`, with None where a size may vary. Half
            precision is sent as float32 and uint16 as int32, since JSON requests lack these types.
        examples: batches, each a dict from a name to a list or an array. The outputs of the first
            are checked; all of them are used for warming up.
        resources: layers and tables that `function` uses, in addition to the model.

    Raises:
        ValueError: a request cannot have the name of an input.
    """

    function: Callable[..., dict[str, tf.Tensor]]
    inputs: dict[str, tf.TensorSpec]
    examples: Sequence[dict[str, Nested]]
    resources: Sequence[object] = ()

    def __post_init__(self) -> None:
        valid = input_names(self.inputs)
        if list(self.inputs) != valid:
            raise ValueError(f"`inputs` must have names such as {valid}, got {list(self.inputs)}")

    def __call__(self, inputs: Mapping[str, tf.Tensor | np.ndarray]) -> dict[str, tf.Tensor]:
        """The named outputs in the types that a server can write as JSON."""
        tensors = {
            name: tf.cast(tf.convert_to_tensor(inputs[name]), spec.dtype)
            for name, spec in self.inputs.items()
        }
        outputs = self.function(**tensors)
        if not isinstance(outputs, dict):
            raise ValueError(
                f"the function of a signature must return a dict, got {type(outputs).__name__}"
            )
        return {name: _plain(value, name) for name, value in flattened(outputs).items()}

    def wire(self) -> dict[str, tf.TensorSpec]:
        """The inputs, in the types in which they are sent."""
        return {
            name: tf.TensorSpec(spec.shape, _WIRE.get(spec.dtype, spec.dtype), name)
            for name, spec in self.inputs.items()
        }

    def traced(self) -> tf.types.experimental.ConcreteFunction:
        """The graph of the function, for the shapes and types of `inputs`."""
        function = tf.function(lambda **inputs: self(inputs), autograph=False)
        return function.get_concrete_function(**self.wire())

    def batch(self, values: object, what: str) -> dict[str, np.ndarray]:
        """The arrays of a batch, in the types and with the shapes of the inputs.

        Raises:
            ValueError: the values are not a batch for this signature; the message begins with
                `what`.
        """
        wire = self.wire()
        if not isinstance(values, Mapping):
            raise ValueError(f"{what} must be a dict of inputs, got {type(values).__name__}")
        if set(values) != set(wire):
            raise ValueError(f"{what} must have the inputs {sorted(wire)}, got {sorted(values)}")
        arrays = {
            name: _checked(value, wire[name], f"{what}, input {name!r}")
            for name, value in values.items()
        }
        rows = {name: len(array) for name, array in arrays.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"{what} must have inputs with the same number of rows, got {rows}")
        return arrays


def check_name(name: str) -> None:
    """Raise a ValueError for a name that TF Serving or a client cannot use."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            "`functions` must have names of letters, digits and _ that start with a letter, "
            f"got {name!r}"
        )


def plain_names(names: Iterable[Any]) -> list[str]:
    """Unique names of letters, digits and `_`; repeated names are numbered from 0."""
    names = [re.sub(r"\W", "_", str(name), flags=re.ASCII) or "_" for name in names]
    names = [name if name[0].isalpha() else f"arg_{name}" for name in names]
    counts = Counter(names)
    taken = {name for name, count in counts.items() if count == 1}
    for index, name in enumerate(names):
        if counts[name] > 1:
            numbered = (f"{name}_{number}" for number in range(len(names) * 2))
            names[index] = next(new for new in numbered if new not in taken)
            taken.add(names[index])
    return names


def input_names(names: Iterable[Any]) -> list[str]:
    """Plain names that are valid names of arguments of a Python function."""
    taken = [*keyword.kwlist, "self"]
    return [f"arg_{name}" if name in taken else name for name in plain_names(names)]


def flattened(outputs: Nested) -> dict[str, tf.Tensor]:
    """The tensors in nested dicts and lists, named by their paths."""
    paths = keras.tree.flatten_with_path(outputs)
    names = plain_names("_".join(map(str, path)) for path, _ in paths)
    return dict(zip(names, (value for _, value in paths), strict=True))


def as_array(value: Any) -> np.ndarray:
    """An array; strings become an array of bytes objects, as sessions take them."""
    array = np.asarray(value)
    if array.dtype.kind in "US" or array.dtype == object:
        flat = [item.encode() if isinstance(item, str) else item for item in array.ravel()]
        encoded = np.empty(len(flat), object)
        encoded[:] = flat
        return encoded.reshape(array.shape)
    return array


def _checked(value: Any, spec: tf.TensorSpec, what: str) -> np.ndarray:
    expected = Tensor(spec.dtype.name, tuple(spec.shape))
    try:
        array = as_array(value)
    except ValueError as error:  # lists of unequal lengths
        raise ValueError(f"{what} must be {expected}: {error}") from error
    cast, right = array, False
    got = Tensor("string" if array.dtype == object else array.dtype.name, array.shape)
    if spec.dtype == tf.string:
        right = all(isinstance(item, bytes) for item in array.ravel()) and array.dtype == object
        cast = array if array.size else array.astype(object)
        right = right or not array.size
    elif array.dtype.kind in "biufV":
        cast = array.astype(spec.dtype.as_numpy_dtype)
        # Integers keep their value; a float may lose digits.
        right = spec.dtype.is_floating or bool((cast == array).all())
        right = right and spec.dtype.is_bool == (array.dtype.kind == "b" or not array.size)
    if not right or not spec.shape.is_compatible_with(array.shape):
        raise ValueError(f"{what} must be {expected}, got {got}")
    return cast


def _plain(value: Any, name: str) -> tf.Tensor:
    if isinstance(value, (tf.SparseTensor, tf.RaggedTensor)):
        raise ValueError(f"output {name!r} must be a dense tensor, got a {type(value).__name__}")
    value = tf.convert_to_tensor(value)
    if value.dtype.is_complex:
        raise ValueError(f"output {name!r} must have real numbers, got {value.dtype.name}")
    if value.dtype.is_floating:
        return tf.cast(value, tf.float32)
    return value if value.dtype == tf.string else tf.cast(value, tf.int64)
