"""Checks of arguments: one wording for each kind."""

import numbers
from typing import Any


def is_integer(value: Any) -> bool:
    """Whether it is an integer, Python's or numpy's, and no truth value."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_count(name: str, value: Any) -> int:
    """The value as Python's int; raises unless it is a positive integer."""
    if not is_integer(value) or value <= 0:
        raise ValueError(f"`{name}` must be a positive integer, got {value!r}")
    return int(value)
