"""Compiled functions on JAX."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import keras


def compiled(function: Callable[..., Any], variables: Any, xla: bool) -> Callable[..., Any]:
    """See `keras_attn.ops.compilation`; weights go in as arguments, or they would be constants."""

    @jax.jit
    def run(values: list, *args: Any, **kwargs: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*args, **kwargs)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return run([variable.value for variable in variables], *args, **kwargs)

    return call
