"""A loop on JAX whose steps share the memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def loop(count: Any, step: Callable, carry: tuple, dtypes: tuple) -> tuple:
    """Run `carry, outputs = step(index, carry)` and stack the outputs of all steps."""
    return jax.lax.scan(lambda carry, index: step(index, carry), carry, jnp.arange(count))
