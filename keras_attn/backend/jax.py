"""`keras_attn.backend` on JAX."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.experimental import multihost_utils


def compiled(function: Callable[..., Any], variables: Any, xla: bool) -> Callable[..., Any]:
    """Weights go in as arguments, or they would be constants."""

    @jax.jit
    def run(values: list, *args: Any, **kwargs: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*args, **kwargs)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return run([variable.value for variable in variables], *args, **kwargs)

    return call


def loop(count: Any, step: Callable, carry: tuple, dtypes: tuple) -> tuple:
    """Run `carry, outputs = step(index, carry)` and stack the outputs of all steps."""
    return jax.lax.scan(lambda carry, index: step(index, carry), carry, jnp.arange(count))


def recomputed(function: Callable[..., Any], *tensors: Any) -> Any:
    """Not `jax.checkpoint`: XLA for CPUs takes its computations for one and keeps the results."""
    run = jax.custom_vjp(function)

    def forward(*tensors: Any) -> tuple:
        return function(*tensors), tensors

    def backward(tensors: tuple, d_outputs: Any) -> tuple:
        _, gradient = jax.vjp(function, *_after(d_outputs, tensors))
        return gradient(d_outputs)

    run.defvjp(forward, backward)
    return run(*tensors)


def with_gradient(forward: Callable, backward: Callable) -> Callable[..., Any]:
    """The forward pass calls `run`, so that the derivatives of its output are `backward`'s too."""
    run = jax.custom_vjp(forward)
    run.defvjp(
        lambda *tensors: (run(*tensors), tensors),
        lambda tensors, d_output: backward(d_output, *tensors),
    )
    return run


def traced_once(function: Callable, identity: Hashable, tensors: Any) -> Any:
    """XLA compiles the whole."""
    return function(tensors)


def generator_states() -> dict[str, np.ndarray]:
    """JAX has none."""
    return {}


def assign_generator_states(states: dict[str, np.ndarray]) -> None:
    """JAX has none."""


def value_of(variable: keras.Variable) -> np.ndarray:
    """Nothing moves where this process holds the whole."""
    value = variable.value
    if not (value.is_fully_addressable or value.is_fully_replicated):
        value = multihost_utils.process_allgather(value, tiled=True)
    return keras.ops.convert_to_numpy(value)


def writes_files(model: keras.Model) -> bool:
    """Process 0 is there in any case."""
    return jax.process_index() == 0


def from_all_processes(model: keras.Model, number: int) -> list[int]:
    """In the order of the processes."""
    numbers = multihost_utils.process_allgather(np.array([number]))
    return numbers.reshape(-1).tolist()


def _after(d_outputs: Any, tensors: tuple) -> list:
    """The same tensors, which cannot be had before the gradients."""
    first = next(d_output for d_output in jax.tree.leaves(d_outputs) if _is_float(d_output))
    first = jnp.sum(first[(slice(0, 1),) * first.ndim])
    # No number is both, which no optimizer knows.
    never = jnp.isnan(first) & jnp.isinf(first)
    return [t + never.astype(t.dtype) if _is_float(t) else t for t in tensors]


def _is_float(tensor: Any) -> bool:
    return jnp.issubdtype(tensor.dtype, jnp.floating)
