"""Compiled functions on torch."""

from collections.abc import Callable
from typing import Any

import torch


def compiled(function: Callable[..., Any], variables: Any, xla: bool) -> Callable[..., Any]:
    """See `keras_attn.ops.compilation`; torch runs loops in Python, without gradients."""
    return torch.no_grad()(function)
