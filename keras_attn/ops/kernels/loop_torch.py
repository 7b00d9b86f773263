"""A loop on torch whose steps share the memory."""

from collections.abc import Callable
from typing import Any

import torch


def loop(count: Any, step: Callable, carry: tuple, dtypes: tuple) -> tuple:
    """Run `carry, outputs = step(index, carry)` and stack the outputs of all steps."""
    steps = []
    for index in range(count):
        carry, outputs = step(index, carry)
        steps.append(outputs)
    return carry, tuple(torch.stack(parts) for parts in zip(*steps, strict=True))
