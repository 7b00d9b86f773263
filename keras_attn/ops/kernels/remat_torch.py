"""Recomputation on torch."""

from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *tensors: Any) -> Any:
    """`function(*tensors)`, computed again in the backward pass."""
    return checkpoint(function, *tensors, use_reentrant=False)
