"""Named arrays from safetensors files, a TensorFlow 1 checkpoint or a Keras model."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_attn._checks import optional_module
from keras_attn.data.text.files import read_json

INDEX = "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class Source:
    """The arrays of a checkpoint; each is read only when asked for.

    Args:
        title: its name in error messages.
        shapes: by name.
        read: gives the array of a name.
    """

    title: str
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def read_weights(title: str, weights: Iterable[Any]) -> Source:
    """Keras weights, named by their paths."""
    named = {weight.path: weight for weight in weights}
    shapes = {name: tuple(weight.shape) for name, weight in named.items()}
    return Source(title, shapes, lambda name: keras.ops.convert_to_numpy(named[name]))


def read_safetensors(directory: Path) -> Source:
    """model.safetensors, or the files that its index names.

    Raises:
        ValueError: a file that is missing, truncated or of another kind; it is named.
    """
    safetensors = optional_module("safetensors", "weights", "A safetensors file")

    files = [directory / "model.safetensors"]
    if (directory / INDEX).exists():
        shards = read_json(directory / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(n, str) for n in shards.values()):
            raise ValueError(
                f"{directory / INDEX} must have a weight_map from names to files, got {shards!r}"
            )
        files = [directory / name for name in sorted(set(shards.values()))]
    homes, shapes = {}, {}
    for file in files:
        try:
            handle = safetensors.safe_open(file, framework="np")
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"{file} is not a complete safetensors file: {error}") from error
        for name in handle.keys():  # noqa: SIM118 (it is no mapping)
            homes[name] = handle
            shapes[name] = tuple(handle.get_slice(name).get_shape())

    def read(name: str) -> np.ndarray:
        try:
            return homes[name].get_tensor(name)
        except AttributeError as error:  # numpy has no such type
            kind = homes[name].get_slice(name).get_dtype()
            raise ValueError(
                f"{directory}: {name} must hold floating-point numbers of 16 bits or more, "
                f"got {kind}"
            ) from error

    return Source(str(directory), shapes, read)


def read_tensorflow(prefix: Path) -> Source:
    """A checkpoint of TensorFlow 1: the files prefix.index and prefix.data-*.

    Raises:
        ValueError: a file that is missing, truncated or of another kind.
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
    read(max(shapes))  # the arrays lie in the order of their names: a short file lacks the last
    return Source(str(prefix), shapes, read)
