"""Recomputation on JAX."""

from collections.abc import Callable
from typing import Any

import jax


def recomputed(function: Callable[..., Any], *tensors: Any) -> Any:
    """`function(*tensors)`, computed again in the backward pass."""
    return jax.checkpoint(function)(*tensors)
