"""The key/value cache of decoding: plain tensors that go in and come out.

Letters: B batch, L cache length, S new length, K key/value heads, H head width.
"""

from typing import Any

import keras
from keras import ops


def create(batch: Any, length: int, heads: int, width: int, dtype: str = "float32") -> dict:
    """An empty cache, `{"key", "value"}`, each `[B, L, K, H]`."""
    shape = (batch, length, heads, width)
    return {"key": ops.zeros(shape, dtype), "value": ops.zeros(shape, dtype)}


def append(cache: dict, key: Any, value: Any, index: Any) -> dict:
    """The cache with `key` and `value` `[B, S, K, H]` written from position `index` on."""
    start = (0, index, 0, 0)
    return {
        "key": ops.slice_update(cache["key"], start, ops.cast(key, cache["key"].dtype)),
        "value": ops.slice_update(cache["value"], start, ops.cast(value, cache["value"].dtype)),
    }


def reorder(cache: Any, rows: Any) -> Any:
    """The cache of the rows `[B]` that a beam search goes on with; any nest of tensors."""
    return keras.tree.map_structure(lambda tensor: ops.take(tensor, rows, axis=0), cache)
