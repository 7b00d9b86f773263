"""Gradients and compiled functions on the current backend, for the tests."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

BACKEND = keras.backend.backend()


def tensors(values: Any) -> Any:
    """A nest of numpy arrays as tensors."""
    return tree.map_structure(ops.convert_to_tensor, values)


def arrays(outputs: Any) -> Any:
    """A nest of tensors as numpy arrays; half precision becomes float32."""
    return tree.map_structure(_array, outputs)


def is_float(value: Any) -> bool:
    """Whether a tensor or array holds floating-point numbers."""
    return "float" in keras.backend.standardize_dtype(value.dtype)


def whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, on JAX compiled whole: eager JAX compiles each operation of each shape alone."""
    if BACKEND != "jax":
        return function
    import jax

    return jax.jit(function)


def computed(layer: Any, *inputs: Any, **options: Any) -> Any:
    """The arrays of `called`."""
    return arrays(called(layer, *inputs, **options))


def called(layer: Any, *inputs: Any, **options: Any) -> Any:
    """`layer(*inputs, **options)` of a built layer, `whole`.

    Calls with the same shapes share a program, so that a layer must not be rewritten between two
    calls (quantized, adapted, upgraded); weights may change. On JAX its state stays as it was.
    """
    if BACKEND != "jax":
        return layer(*inputs, **options)
    import jax

    leaves, structure = jax.tree.flatten((inputs, options))
    traced = tuple(isinstance(leaf, np.ndarray | jax.Array) for leaf in leaves)
    fixed = tuple(None if is_array else leaf for leaf, is_array in zip(leaves, traced, strict=True))
    values = [leaf for leaf, is_array in zip(leaves, traced, strict=True) if is_array]
    state = [variable.value for variable in layer.variables]
    return _program()(layer, structure, traced, fixed, state, values)


@functools.cache
def _program() -> Callable[..., Any]:
    import jax

    def run(layer, structure, traced, fixed, state, values):
        values = iter(values)
        leaves = [
            next(values) if is_array else leaf for leaf, is_array in zip(fixed, traced, strict=True)
        ]
        inputs, options = jax.tree.unflatten(structure, leaves)
        mapping = list(zip(layer.variables, state, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return layer(*inputs, **options)

    return jax.jit(run, static_argnums=(0, 1, 2, 3))


def weight_name(variable: Any) -> str:
    """The variable's path without the name of the outermost layer."""
    return "/".join(variable.path.split("/")[1:])


def loss_of(outputs: Any) -> Any:
    """A scalar: the sum of every float output times fixed random weights."""
    total = 0.0
    for index, output in enumerate(tree.flatten(outputs)):
        if is_float(output):
            weights = np.random.default_rng(index).normal(size=output.shape).astype("float32")
            weights = ops.convert_to_tensor(weights)
            total = total + ops.sum(ops.cast(output, "float32") * weights)
    return total


def gradients(function: Callable[..., Any], *inputs: Any) -> list[np.ndarray]:
    """Gradients of the scalar `function(*inputs)` to each of the arrays `inputs`."""
    return _GRADIENTS[BACKEND](function, [ops.convert_to_tensor(x) for x in inputs])


def penalty(function: Callable[..., Any]) -> Callable[..., Any]:
    """`sum(sin(g))` over the gradients g of the scalar `function(*inputs)`.

    Its own gradients are second derivatives, as a gradient penalty takes them.
    """

    def number(*inputs: Any) -> Any:
        return sum(ops.sum(ops.sin(gradient)) for gradient in _RECORDED[BACKEND](function, inputs))

    return number


def layer_gradients(layer: Any, inputs: dict, **options: Any) -> dict[str, np.ndarray]:
    """Gradients of `loss_of(layer(**inputs))` to each weight and each float input, by name.

    Weights are named as `weight_name` does, inputs `input:NAME` (`input:NAME:0` in a list).
    """
    names, leaves = _names(inputs), tree.flatten(tensors(inputs))
    floats = [i for i, leaf in enumerate(leaves) if is_float(leaf)]

    def loss(*values: Any) -> Any:
        weights, given = values[: len(layer.trainable_variables)], list(leaves)
        for index, value in zip(floats, values[len(weights) :], strict=True):
            given[index] = value
        call = tree.pack_sequence_as(inputs, given)
        return loss_of(call_with(layer, weights, **call, **options))

    values = [variable.value for variable in layer.trainable_variables]
    values += [leaves[i] for i in floats]
    if BACKEND == "jax":
        found = _gradients_of_layer(layer, inputs, options, values)
    else:
        found = gradients(loss, *values)
    labels = [weight_name(v) for v in layer.trainable_variables]
    labels += [f"input:{names[i]}" for i in floats]
    return dict(zip(labels, found, strict=True))


def call_with(layer: Any, weights: Any, **inputs: Any) -> Any:
    """`layer(**inputs)` with these values of its trainable weights.

    Not `stateless_call`, which casts no inputs.
    """
    mapping = list(zip(layer.trainable_variables, weights, strict=True))
    with keras.StatelessScope(state_mapping=mapping):
        return layer(**inputs)


def compiled(function: Callable[..., Any], xla: bool) -> Callable[..., Any]:
    """`function` as this backend compiles it; torch compiles nothing here."""
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=xla)


def _names(inputs: dict) -> list[str]:
    return [":".join(map(str, path)) for path, _ in tree.flatten_with_path(inputs)]


def _array(tensor: Any) -> np.ndarray:
    if is_float(tensor) and keras.backend.standardize_dtype(tensor.dtype) != "float64":
        tensor = ops.cast(tensor, "float32")
    return ops.convert_to_numpy(tensor)


def _tensorflow(function: Any, inputs: list) -> list:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = function(*inputs)
    found = tape.gradient(value, inputs)
    return [None if g is None else _array(tf.convert_to_tensor(g)) for g in found]


def _jax(function: Any, inputs: list) -> list:
    import jax

    if not inputs:
        return []
    gradient = jax.jit(jax.grad(function, argnums=tuple(range(len(inputs)))))
    return [_array(g) for g in gradient(*inputs)]


def _gradients_of_layer(layer: Any, inputs: dict, options: dict, values: list) -> list:
    import jax

    leaves, structure = jax.tree.flatten(inputs)
    floats = tuple(map(is_float, leaves))
    rest = [leaf for leaf, moves in zip(leaves, floats, strict=True) if not moves]
    state = [variable.value for variable in layer.non_trainable_variables]
    fixed = tuple(options.items())
    return arrays(_gradient_program()(layer, structure, floats, fixed, values, state, rest))


@functools.cache
def _gradient_program() -> Callable[..., Any]:
    import jax

    def run(layer, structure, floats, options, values, state, rest):
        def loss(values):
            count = len(layer.trainable_variables)
            moving, others = iter(values[count:]), iter(rest)
            leaves = [next(moving) if is_moving else next(others) for is_moving in floats]
            variables = [*layer.trainable_variables, *layer.non_trainable_variables]
            mapping = list(zip(variables, [*values[:count], *state], strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return loss_of(layer(**jax.tree.unflatten(structure, leaves), **dict(options)))

        return jax.grad(loss)(values)

    return jax.jit(run, static_argnums=(0, 1, 2, 3))


def _torch(function: Any, inputs: list) -> list:
    import torch

    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    if not leaves:
        return []
    found = torch.autograd.grad(function(*leaves), leaves, allow_unused=True)
    return [None if g is None else _array(g) for g in found]


def _recorded_tensorflow(function: Any, inputs: tuple) -> list:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = function(*inputs)
    return tape.gradient(value, inputs)


def _recorded_jax(function: Any, inputs: tuple) -> tuple:
    import jax

    return jax.grad(function, argnums=tuple(range(len(inputs))))(*inputs)


def _recorded_torch(function: Any, inputs: tuple) -> tuple:
    import torch

    return torch.autograd.grad(function(*inputs), inputs, create_graph=True)


_RECORDED = {
    "tensorflow": _recorded_tensorflow,
    "jax": _recorded_jax,
    "torch": _recorded_torch,
}
_GRADIENTS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


def weights_of(layer: Any) -> dict[str, np.ndarray]:
    """A layer's weights by name."""
    return {weight_name(variable): _array(variable.value) for variable in layer.weights}


def randomize(layer: Any) -> Any:
    """A built layer with noise added to its weights: initial zeros and ones would hide errors."""
    rng = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(weight + 0.2 * rng.normal(size=weight.shape).astype("float32"))
    return layer


def assert_dropped(trained: Any, rest: Any, rate: float) -> None:
    """Assert that training zeroes a tensor's entries at that rate and scales the others up."""
    rest = arrays(rest)
    ratio = arrays(trained)[rest != 0] / rest[rest != 0]
    np.testing.assert_allclose(np.unique(ratio.round(3)), [0, round(1 / (1 - rate), 3)])
    deviation = np.sqrt(rate * (1 - rate) / ratio.size)
    np.testing.assert_allclose((ratio == 0).mean(), rate, atol=5 * deviation)


def within(weights: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The weights under `prefix/`, named without it."""
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
