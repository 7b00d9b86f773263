"""Named arrays from safetensors files, a TensorFlow 1 checkpoint or a Keras model."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np

from keras_attn._checks import optional_module
from keras_attn.data.text.files import read_json

INDEX = "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class Source:
    """The arrays of a checkpoint; each is read only when it is needed.

    Args:
        title: its name in error messages.
        shapes: the shape of each array, by its name.
        read: a function from the name of an array to the array.
    """

    title: str
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def read_weights(title: str, weights: Iterable[keras.Variable]) -> Source:
    """The arrays of Keras weights, named by the paths of the weights."""
    named = {weight.path: weight for weight in weights}
    shapes = {name: tuple(weight.shape) for name, weight in named.items()}
    return Source(title, shapes, lambda name: keras.ops.convert_to_numpy(named[name]))


def read_safetensors(directory: Path) -> Source:
    """model.safetensors, or without it the files that its index names, as in transformers.

    Raises:
        ValueError: a file is missing, truncated or in another format; the message names it.
    """
    safetensors = optional_module("safetensors", "weights", "A safetensors file")

    files = [directory / "model.safetensors"]
    if not files[0].exists():
        shards = read_json(directory / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(n, str) for n in shards.values()):
            raise ValueError(
                f"{directory / INDEX} must have a weight_map from names to files, got {shards!r}"
            )
        files = [directory / name for name in sorted(set(shards.values()))]
    handles, shapes = {}, {}
    for file in files:
        try:
            handle = safetensors.safe_open(file, framework="np")
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"{file} is not a complete safetensors file: {error}") from error
        for name in handle.keys():  # noqa: SIM118 (not a mapping)
            handles[name] = handle
            shapes[name] = tuple(handle.get_slice(name).get_shape())

    def read(name: str) -> np.ndarray:
        try:
            return handles[name].get_tensor(name)
        except AttributeError as error:  # numpy does not have the type
            kind = handles[name].get_slice(name).get_dtype()
            raise ValueError(
                f"{directory}: {name} must hold floating-point numbers of 16 bits or more, "
                f"got {kind}"
            ) from error

    return Source(str(directory), shapes, read)


def read_tensorflow(prefix: Path) -> Source:
    """A checkpoint of TensorFlow 1: the files prefix.index and prefix.data-*.

    Raises:
        ValueError: a file is missing, truncated or in another format.
    """
    import tensorflow as tf

    def read(name: str) -> np.ndarray:
        try:
            return reader.get_tensor(name)
        except (tf.errors.OpError, IndexError, RuntimeError) as error:
            raise ValueError(f"{prefix} is truncated or corrupt at {name}: {error}") from error

    try:
        reader = tf.train.load_checkpoint(str(prefix))
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise ValueError(f"{prefix} is not a complete TensorFlow checkpoint: {error}") from error
    shapes = {name: tuple(s) for name, s in reader.get_variable_to_shape_map().items()}
    read(max(shapes))  # the arrays are stored in the order of their names: checks the last one
    return Source(str(prefix), shapes, read)
