"""The key/value cache of decoding: plain tensors that go in and come out.

A cache is any nest of tensors, batch first; those of attention are `{"key", "value"}`, laid out
head by head, so that no step transposes what earlier steps wrote.

Letters: B batch, L cache length, S new length, K key/value heads, H head width.
"""

import keras
from keras import ops

from keras_attn._typing import Cache, Size, Tensor


def create(batch: Size, length: int, heads: int, width: int, dtype: str = "float32") -> dict:
    """An empty cache, `{"key", "value"}`, each `[B, K, L, H]`."""
    shape = (batch, heads, length, width)
    return {"key": ops.zeros(shape, dtype), "value": ops.zeros(shape, dtype)}


def store(key: Tensor, value: Tensor) -> dict:
    """`key` and `value` `[B, S, K, H]` as a cache that is full."""
    return {"key": _swap(key), "value": _swap(value)}


def append(cache: dict, key: Tensor, value: Tensor, index: Size) -> dict:
    """The cache with `key` and `value` `[B, S, K, H]` written from position `index` on."""
    start = (0, 0, index, 0)
    new = store(key, value)
    return {
        name: ops.slice_update(cache[name], start, ops.cast(new[name], cache[name].dtype))
        for name in ("key", "value")
    }


def read(cache: dict) -> tuple[Tensor, Tensor]:
    """Keys and values `[B, L, K, H]`, as `keras_attn.ops.attention` takes them."""
    return _swap(cache["key"]), _swap(cache["value"])


def length(cache: Cache) -> int | None:
    """L of the attention in the nest, None where it holds no keys."""
    for path, tensor in keras.tree.flatten_with_path(cache):
        if path and path[-1] == "key":
            return tensor.shape[2]
    return None


def repeat(cache: Cache, count: int) -> Cache:
    """The cache with each row `count` times in a row, as a beam search starts."""
    return keras.tree.map_structure(lambda tensor: ops.repeat(tensor, count, axis=0), cache)


def reorder(cache: Cache, rows: Tensor) -> Cache:
    """The cache of the rows `[B]` with which a beam search continues; any nested tensors."""
    return keras.tree.map_structure(lambda tensor: ops.take(tensor, rows, axis=0), cache)


def _swap(tensor: Tensor) -> Tensor:
    return ops.transpose(tensor, (0, 2, 1, 3))
