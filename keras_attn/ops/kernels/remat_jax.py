"""Recomputation on JAX."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def recomputed(function: Callable[..., Any], *tensors: Any) -> Any:
    """`function(*tensors)`, computed again in the backward pass.

    Not `jax.checkpoint`: XLA for CPUs takes its two computations for one and keeps the results.
    """
    run = jax.custom_vjp(function)

    def forward(*tensors: Any) -> tuple:
        return function(*tensors), tensors

    def backward(tensors: tuple, d_outputs: Any) -> tuple:
        _, gradient = jax.vjp(function, *_after(d_outputs, tensors))
        return gradient(d_outputs)

    run.defvjp(forward, backward)
    return run(*tensors)


def _after(d_outputs: Any, tensors: tuple) -> list:
    """The same tensors, which cannot be had before the gradients."""
    first = next(d_output for d_output in jax.tree.leaves(d_outputs) if _is_float(d_output))
    first = jnp.sum(first[(slice(0, 1),) * first.ndim])
    # No number is both, which no optimizer knows.
    never = jnp.isnan(first) & jnp.isinf(first)
    return [t + never.astype(t.dtype) if _is_float(t) else t for t in tensors]


def _is_float(tensor: Any) -> bool:
    return jnp.issubdtype(tensor.dtype, jnp.floating)
