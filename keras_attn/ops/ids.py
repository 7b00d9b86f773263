"""Ids that index a table."""

from typing import Any

import numpy as np
from keras import ops


def check_ids(name: str, ids: Any, count: int) -> Any:
    """Int32 ids in [0, count): a ValueError names eager ids outside; compiled code clips them.

    Compiled code cannot raise, and an index outside a table is an error on one device, NaN or zero
    on another; the nearest valid id is the same everywhere.

    >>> check_ids("token_ids", np.array([3, 11]), 11)
    Traceback (most recent call last):
    ValueError: `token_ids` must be in [0, 11), got 11
    """
    values = _values(ids)
    if values is not None and values.size:
        for value in (values.min(), values.max()):
            if not 0 <= value < count:
                raise ValueError(f"`{name}` must be in [0, {count}), got {value}")
    return ops.clip(ops.cast(ids, "int32"), 0, count - 1)


def _values(ids: Any) -> np.ndarray | None:
    """The ids as numpy where they are known and on the host, None inside compiled code."""
    try:
        return np.asarray(ids)
    except Exception:  # each backend refuses in a way of its own
        return None
