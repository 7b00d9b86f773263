"""What Keras has no function for, on the backend that runs.

Each function below is in `tensorflow.py`, `jax.py` and `torch.py`; the file of the backend that
runs is imported on first use.

Letters: B batch, T steps.
"""

import contextlib
import functools
import importlib
from collections.abc import Callable, Hashable, Sequence
from types import ModuleType

import keras
import numpy as np

from keras_attn._keras import rnn
from keras_attn._typing import Nested, Size, Tensor

# Of an array: start and end on each axis; None for the whole.
Part = tuple[tuple[int, int], ...] | None


def compiled(
    function: Callable[..., Nested], variables: Sequence[keras.Variable] = (), xla: bool = False
) -> Callable[..., Nested]:
    """The same function from tensors to tensors, compiled as a whole: loops stay loops.

    A tf.function on TensorFlow, jitted on JAX; torch runs it as it is, without gradients.

    Args:
        function: a function of tensors, numpy arrays and nested structures of them.
        variables: the weights that it reads, so that changes of them take effect.
        xla: whether XLA compiles it on TensorFlow too, once for each shape.

    Example:
    >>> import numpy as np
    >>> from keras import ops
    >>> double = compiled(lambda inputs: 2 * ops.convert_to_tensor(inputs))
    >>> ops.convert_to_numpy(double(np.array([1, 2]))).tolist()
    [2, 4]
    """
    return _running().compiled(function, variables, xla)


def loop(count: Size, step: Callable, carry: tuple, dtypes: tuple) -> tuple:
    """A loop whose steps share the memory.

    Args:
        count: how many steps; an integer tensor is possible on TensorFlow.
        step: function of the index of a step and the carry, giving the new carry and the outputs of
            the step, a tuple of tensors.
        carry: nested tensors before the first step.
        dtypes: dtypes of the outputs.

    Returns:
        The carry after the last step, and the outputs of all steps, stacked.

    Example:
    >>> from keras import ops
    >>> def step(index, carry):
    ...     return carry, (ops.convert_to_tensor(index) ** 2,)
    >>> _, (squares,) = loop(3, step, (), ("int32",))
    >>> ops.convert_to_numpy(squares).tolist()
    [0, 1, 4]
    """
    return _running().loop(count, step, carry, dtypes)


def recur(step: Callable, inputs: Nested, states: list) -> Nested:
    """Run `step` along axis 1 of `inputs` and stack what it gives; made for gradients.

    Args:
        step: function of the inputs `[B, ...]` of a step and the list of states, giving the outputs
            of the step (nested tensors `[B, ...]`) and the new states, of the shapes and dtypes of
            the old.
        inputs: one tensor `[B, T, ...]` of rank 3 or more.
        states: list of tensors `[B, ...]` before the first step.

    Returns:
        The outputs of all steps, `[B, T, ...]` each.

    Example:
    >>> from keras import ops
    >>> def add(inputs, states):
    ...     total = states[0] + inputs
    ...     return total, [total]
    >>> ops.convert_to_numpy(recur(add, ops.ones((1, 3, 1)), [ops.zeros((1, 1))])).tolist()
    [[[1.0], [2.0], [3.0]]]
    """
    _, outputs, _ = rnn(lambda row, carry: step(row, list(carry)), inputs, list(states))
    return outputs


def recomputed(function: Callable[..., Nested], *tensors: Tensor) -> Nested:
    """`function(*tensors)`, of which only the tensors are kept for the backward pass.

    Everything that has a gradient must be among the tensors; `keras_attn.ops.remat` takes care of
    weights and states.
    """
    return _running().recomputed(function, *tensors)


def with_gradient(forward: Callable, backward: Callable) -> Callable[..., Tensor]:
    """`forward`, of which only the arguments are kept, with `backward` for its gradients.

    Second derivatives are those of `backward`, which is made of operations with gradients.

    Args:
        forward: takes tensors and gives one tensor.
        backward: takes the gradient of that tensor, and the tensors; gives the gradient of each, or
            None.

    Example:
    >>> from keras import ops
    >>> double = with_gradient(lambda x: 2 * x, lambda d_output, x: (2 * d_output,))
    >>> float(double(ops.ones(())))
    2.0
    """
    return _running().with_gradient(forward, backward)


def traced_once(function: Callable, identity: Hashable, tensors: Nested) -> Nested:
    """`function(tensors)`; in a graph of TensorFlow, equal calls share one function.

    A model's layers mostly compute the same. Their graph is then traced only once, which takes less
    time, and is stored only once in a SavedModel. TensorFlow inlines the functions before it runs,
    so that a call costs nothing.

    Args:
        function: a function of nested tensors that reads nothing else.
        identity: equal for functions that do the same with tensors of the same shapes and dtypes;
            a call is not shared if it has a function that is neither Keras' nor this package's.
        tensors: nested tensors and None.
    """
    return _running().traced_once(function, identity, tensors)


def activated(activation: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """`activation(inputs)`, by the backend's fastest way to compute it."""
    return _running().activated(activation, inputs)


def random_int16(shape: tuple, seed: Tensor) -> Tensor:
    """Uniform integers of all 16 bits, int16; several of them come from one longer draw.

    Args:
        shape: shape of the result, of rank 1 or more; entries may be tensors in a graph.
        seed: integer tensor `[2]`.
    """
    return _running().random_int16(shape, seed)


def drawn_once(tensor: Tensor) -> Tensor:
    """The random tensor, kept for the backward pass where a compiler would draw it again."""
    return _running().drawn_once(tensor)


def device_of(tensor: Tensor) -> str:
    """The kind of device that computes with the tensor: "cpu", "gpu", "tpu" or another.

    In a graph it is the device for which the graph is made, as far as that is known: the scope
    around it, or else the default.

    Example:
    >>> from keras import ops
    >>> with keras.device("cpu"):
    ...     device_of(ops.ones((2,)))
    'cpu'
    """
    return _running().device_of(tensor)


def seeds_place() -> contextlib.AbstractContextManager:
    """Where the state of a layer's seed generator is kept and read, as a context."""
    return _running().seeds_place()


def generator_states() -> dict[str, np.ndarray]:
    """The state of the backend's own random generators, which is outside of Keras' variables."""
    return _running().generator_states()


def assign_generator_states(states: dict[str, np.ndarray]) -> None:
    """Set the generators to what `generator_states` gave."""
    _running().assign_generator_states(states)


def owned_parts(variable: keras.Variable) -> dict[Part, np.ndarray]:
    """What this process writes of the value: all processes together write each number once."""
    return _running().owned_parts(variable)


def needed_parts(variable: keras.Variable) -> list[Part]:
    """What this process must read of the value, as its devices lie on the mesh now."""
    return _running().needed_parts(variable)


def assign_parts(variable: keras.Variable, parts: dict[Part, np.ndarray]) -> None:
    """Set the value; all processes must call this, with the parts that each needs."""
    _running().assign_parts(variable, parts)


def file_number(model: keras.Model, variables: Sequence[keras.Variable]) -> tuple[int, int]:
    """Which of how many files of the values this process writes; none if it is not below that."""
    return _running().file_number(model, variables)


def from_all_processes(model: keras.Model, number: int) -> list[int]:
    """The number that each process that trains the model gives; all of them must call this."""
    return _running().from_all_processes(model, number)


@functools.cache  # a plain import would be translated by TensorFlow's autograph, with warnings
def _running() -> ModuleType:
    return importlib.import_module(f"keras_attn.backend.{keras.backend.backend()}")
