"""`keras_attn.backend` on TensorFlow."""

import contextlib
import inspect
import weakref
from collections.abc import Callable, Hashable, MutableMapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_attn import _keras
from keras_attn._typing import Nested, Size, Tensor
from keras_attn.backend import Part


def compiled(
    function: Callable[..., Nested], variables: Sequence[keras.Variable], xla: bool
) -> Callable[..., Nested]:
    """A graph reads variables as they are when it runs."""
    return tf.function(function, autograph=False, jit_compile=xla or None)


def loop(count: Size, step: Callable, carry: tuple, dtypes: tuple) -> tuple:
    """Run `carry, outputs = step(index, carry)` and stack the outputs, of `dtypes`, of all steps.

    One step at a time: more in flight would multiply the memory and share the same cores.
    """
    arrays = tuple(tf.TensorArray(dtype, size=count) for dtype in dtypes)

    def body(index: Size, carry: tuple, arrays: tuple) -> tuple:
        carry, outputs = step(index, carry)
        arrays = tuple(
            array.write(index, output) for array, output in zip(arrays, outputs, strict=True)
        )
        return index + 1, carry, arrays

    _, carry, arrays = tf.while_loop(
        lambda index, *_: index < count, body, (0, carry, arrays), parallel_iterations=1
    )
    return carry, tuple(array.stack() for array in arrays)


def recomputed(function: Callable[..., Nested], *tensors: Tensor) -> Nested:
    """Not `tf.recompute_grad`, which takes variables from the scope, which are not Keras'."""

    @tf.custom_gradient
    def run(*tensors: Tensor) -> tuple:
        def gradient(*d_outputs: Tensor) -> list:
            inputs = _after(d_outputs, tensors)
            with tf.GradientTape() as tape:
                tape.watch([tensor for tensor in inputs if tensor.dtype.is_floating])
                outputs = tf.nest.flatten(function(*inputs))
            floats = [i for i, output in enumerate(outputs) if output.dtype.is_floating]
            return tape.gradient(
                [outputs[i] for i in floats], inputs, [d_outputs[i] for i in floats]
            )

        # An eager tape would keep every result that depends on a tensor with a gradient.
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
    # Always false, but no graph optimizer can prove it: so it cannot remove the dependency.
    never = tf.cast(tf.math.is_nan(first) & tf.math.is_inf(first), "float32")
    return [
        tensor + tf.cast(never, tensor.dtype) if tensor.dtype.is_floating else tensor
        for tensor in tensors
    ]


def activated(activation: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Keras' own."""
    return activation(inputs)


def random_int16(shape: tuple, seed: Tensor) -> Tensor:
    """Two from each draw."""
    *others, last = shape
    draws = tf.random.stateless_uniform(
        (*others, (last + 1) // 2), tf.cast(seed, "int32"), None, None, "int32"
    )
    pairs = tf.bitcast(draws, "int16")  # [..., (last + 1) // 2, 2]
    return tf.reshape(pairs, (*others, (last + 1) // 2 * 2))[..., :last]


def drawn_once(tensor: Tensor) -> Tensor:
    """The tape keeps it."""
    return tensor


def device_of(tensor: Tensor) -> str:
    """That of the tensor; one without is computed on a GPU if there is one."""
    kind = tf.DeviceSpec.from_string(getattr(tensor, "device", None) or "").device_type
    return (kind or ("GPU" if tf.config.list_physical_devices("GPU") else "CPU")).lower()


def seeds_place() -> contextlib.AbstractContextManager:
    """Seeds stay in the graph."""
    return contextlib.nullcontext()


def generator_states() -> dict[str, np.ndarray]:
    """Nothing draws from TensorFlow's own generator."""
    return {}


def assign_generator_states(states: dict[str, np.ndarray]) -> None:
    """Nothing draws from TensorFlow's own generator."""


def owned_parts(variable: keras.Variable) -> dict[Part, np.ndarray]:
    """A variable of a strategy puts together what its replicas hold."""
    return {None: keras.ops.convert_to_numpy(variable)}


def needed_parts(variable: keras.Variable) -> list:
    """The whole."""
    return [None]


def assign_parts(variable: keras.Variable, parts: dict) -> None:
    """The whole."""
    variable.assign(parts[None])


def file_number(model: keras.Model, variables: Sequence[keras.Variable]) -> tuple[int, int]:
    """The strategy knows the chief, which writes the only file."""
    return 0 if model.distribute_strategy.extended.should_checkpoint else 1, 1


def from_all_processes(model: keras.Model, number: int) -> list[int]:
    """Several processes are there with one strategy only."""
    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return [number]
    numbers = strategy.run(lambda: tf.constant([number], "int64"))
    return strategy.gather(numbers, axis=0).numpy().tolist()


def with_gradient(forward: Callable, backward: Callable) -> Callable[..., Tensor]:
    """An eager tape would keep every result that depends on a tensor with a gradient."""

    @tf.custom_gradient
    def run(*tensors: Tensor) -> tuple:
        output = forward(*map(tf.stop_gradient, tensors))
        return output, lambda d_output: backward(d_output, *tensors)

    # A variable would count as a hidden input.
    return lambda *tensors: run(*map(tf.convert_to_tensor, tensors))


_traced: MutableMapping[tuple, Any] = weakref.WeakValueDictionary()


def traced_once(function: Callable, identity: Hashable, tensors: Nested) -> Nested:
    """All graphs share the functions, which live as long as a graph that calls them."""
    # XLA compiles the whole anyway, and the function would not know that it is for XLA.
    if tf.executing_eagerly() or under_xla() or not _is_fixed(identity):
        return function(tensors)
    graph = tf.compat.v1.get_default_graph()
    specs = tf.nest.map_structure(_spec, tensors)
    key = (identity, str(specs))
    whole = _traced.get(key)
    if whole is None:
        try:
            with tf.init_scope():  # outside of this graph and its devices
                whole = tf.function(function, autograph=False).get_concrete_function(specs)
        except ValueError:  # it reads a tensor of this graph
            return function(tensors)
        if whole.captured_inputs:  # variables
            return function(tensors)
        _traced[key] = whole
    while getattr(graph, "outer_graph", None) is not None and hasattr(graph.outer_graph, "inputs"):
        graph = graph.outer_graph  # a loop's body or a branch is gone before the rest
    if not hasattr(graph, "keras_attn_traced"):
        graph.keras_attn_traced = set()
    graph.keras_attn_traced.add(whole)
    return whole(tensors)


def _is_fixed(identity: Hashable) -> bool:
    """Whether every function in it always does the same: those of Keras and of this package do.

    Others may depend on the training mode, or on what changes between two traces.
    """
    functions = [part for part in tf.nest.flatten(identity) if callable(part)]
    return all(
        inspect.isroutine(f) and str(f.__module__).split(".")[0] in ("keras", "keras_attn")
        for f in functions
    )


def under_xla() -> bool:
    """Whether the graph that is being built is for XLA (`jit_compile=True`)."""
    return _keras.under_xla(tf.compat.v1.get_default_graph())


def size(tensor: Tensor, axis: int) -> Size:
    """The length of an axis, an int where it is known."""
    length = tensor.shape[axis]
    return tf.shape(tensor)[axis] if length is None else length


def _spec(tensor: Tensor | None) -> Any:
    return None if tensor is None else tf.TensorSpec(tensor.shape, tensor.dtype)
