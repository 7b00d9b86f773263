"""A signature before it is written: a function of named tensors, with inputs to try it on.

B batch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
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
    """

    function: Callable[..., dict[str, Any]]
    inputs: dict[str, tf.TensorSpec]
    examples: Sequence[dict[str, Any]]

    def __call__(self, **inputs: Any) -> dict[str, tf.Tensor]:
        """The named outputs in the types that a server can write as JSON."""
        return {name: _plain(value) for name, value in self.function(**inputs).items()}

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


def flat_outputs(model: keras.Model | None, outputs: Any) -> dict[str, Any]:
    """Outputs by name: a dict's keys, or the names that Keras gave; lists are numbered."""
    if not isinstance(outputs, dict):
        values = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        names = getattr(model, "output_names", None) or [f"output_{i}" for i in range(len(values))]
        outputs = dict(zip(names, values, strict=True))
    named = {}
    for name, value in outputs.items():
        if isinstance(value, (list, tuple)):
            named |= {f"{name}_{index}": item for index, item in enumerate(value)}
        else:
            named[name] = value
    return named


def model_signature(
    model: keras.Model, core: Callable[[dict[str, Any]], Any], lengths: Sequence[int]
) -> Signature:
    """The model with its own inputs, under Keras' names."""
    specs = model_inputs(model)
    return Signature(
        function=lambda **inputs: flat_outputs(model, core(inputs)),
        inputs=specs,
        examples=[
            {name: _example(spec, length, seed) for seed, (name, spec) in enumerate(specs.items())}
            for length in lengths
        ],
    )


def text_signature(
    model: keras.Model,
    core: Callable[[dict[str, Any]], Any],
    preprocessor: Any,
    postprocessor: Any,
    lengths: Sequence[int],
) -> Signature:
    """The model between its preprocessor, which takes strings, and its postprocessor."""

    def function(**texts: Any) -> dict[str, Any]:
        features = preprocessor(*(texts[name] for name in preprocessor.text_inputs))
        return answer(model, core, postprocessor, features)

    return Signature(
        function=function,
        inputs={name: tf.TensorSpec([None], tf.string) for name in preprocessor.text_inputs},
        examples=[preprocessor.examples(length, batch=3) for length in lengths],
    )


def answer(
    model: keras.Model, core: Callable[[dict[str, Any]], Any], postprocessor: Any, features: dict
) -> dict[str, Any]:
    """The model's outputs for these features, through the postprocessor if there is one."""
    outputs = core({name: features[name] for name in model_inputs(model)})
    if postprocessor is not None:
        outputs = postprocessor(outputs, features)
    return flat_outputs(model, outputs)


def model_inputs(model: keras.Model) -> dict[str, tf.TensorSpec]:
    """The inputs of a functional model by name."""
    tensors = model.input if isinstance(model.input, dict) else None
    if tensors is None:
        tensors = {tensor.name: tensor for tensor in model.inputs}
    return {name: tf.TensorSpec(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _plain(value: Any) -> tf.Tensor:
    value = tf.convert_to_tensor(value)
    if value.dtype.is_floating:
        return tf.cast(value, tf.float32)
    return value if value.dtype == tf.string else tf.cast(value, tf.int64)


def _example(spec: tf.TensorSpec, length: int, seed: int) -> np.ndarray:
    """Three rows of an input; integers stay below 2, which every vocabulary has."""
    shape = [3 if axis == 0 else size or length for axis, size in enumerate(spec.shape)]
    rng = np.random.default_rng(seed)
    if spec.dtype.is_floating:
        return rng.normal(size=shape).astype(spec.dtype.as_numpy_dtype)
    if spec.dtype.is_bool:
        return np.ones(shape, bool)
    return rng.integers(2, size=shape).astype(spec.dtype.as_numpy_dtype)
