"""The key/value cache of decoding: plain tensors that go in and come out.

A cache is any nest of tensors, batch first; those of attention are `{"key", "value"}`, laid out
head by head, so that no step transposes what earlier steps wrote.

Letters: B batch, L cache length, T new length, K key/value heads, H head width, Hv
that of values, which `create` makes as wide as keys.
"""

import keras
from keras import ops

from keras_attn._typing import Cache, Size, Tensor


def create(batch: Size, length: int, heads: int, width: int, dtype: str = "float32") -> dict:
    """An empty cache: a dict of zeros, `key` and `value`.

    Args:
        batch: B, an integer or, in a graph, a scalar tensor.
        length: L, how many positions fit.
        heads: K.
        width: H.
        dtype: dtype of both tensors.

    Returns:
        `{"key": ..., "value": ...}`, each `[B, K, L, H]`.
    """
    shape = (batch, heads, length, width)
    return {"key": ops.zeros(shape, dtype), "value": ops.zeros(shape, dtype)}


def store(key: Tensor, value: Tensor) -> dict:
    """A full cache of these keys and values, such as those of an encoder's output.

    Args:
        key: `[B, T, K, H]`.
        value: `[B, T, K, Hv]`.

    Returns:
        `{"key": ..., "value": ...}`, `[B, K, T, H]` and `[B, K, T, Hv]`, in the dtypes of the
        arguments.
    """
    return {"key": _swap(key), "value": _swap(value)}


def append(cache: dict, key: Tensor, value: Tensor, index: Size) -> dict:
    """The cache with new keys and values written from a position on; the given one is unchanged.

    Args:
        cache: of `create` or `store`, `[B, K, L, H]` and `[B, K, L, Hv]`.
        key: `[B, T, K, H]`; cast to the dtype of the cache.
        value: `[B, T, K, Hv]`, likewise.
        index: the position of the first of them, an integer or an integer scalar tensor.
            `index + T` must be at most L: nothing checks it, and the backends then differ.

    Returns:
        A cache with the shapes and dtypes of the given one.
    """
    start = (0, 0, index, 0)
    new = store(key, value)
    return {
        name: ops.slice_update(cache[name], start, ops.cast(new[name], cache[name].dtype))
        for name in ("key", "value")
    }


def read(cache: dict) -> tuple[Tensor, Tensor]:
    """The keys and the values, each `[B, L, K, H]`, as `keras_attn.ops.attention` takes them."""
    return _swap(cache["key"]), _swap(cache["value"])


def length(cache: Cache) -> int | None:
    """L of the first attention cache in any nested tensors, found by its entry "key".

    None where there is no such entry, as in the cache of a recurrent decoder.
    """
    for path, tensor in keras.tree.flatten_with_path(cache):
        if path and path[-1] == "key":
            return tensor.shape[2]
    return None


def repeat(cache: Cache, count: int) -> Cache:
    """The cache with each row repeated `count` times, as a beam search starts: `[B count, ...]`."""
    return keras.tree.map_structure(lambda tensor: ops.repeat(tensor, count, axis=0), cache)


def reorder(cache: Cache, rows: Tensor) -> Cache:
    """The cache with its rows in another order, with which a beam search continues.

    Args:
        cache: any nested tensors, batch first.
        rows: int `[B]`, the row of the given cache for each row of the result.
    """
    return keras.tree.map_structure(lambda tensor: ops.take(tensor, rows, axis=0), cache)


def _swap(tensor: Tensor) -> Tensor:
    return ops.transpose(tensor, (0, 2, 1, 3))
