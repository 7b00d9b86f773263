"""Which query may attend to which key, kept as structure until a kernel needs the matrix.

Letters: B batch, N query heads, T query length, S key length. True means "may attend".
"""

import dataclasses
import functools
from typing import Any

import numpy as np
from keras import ops

from keras_attn._checks import check_flag, is_integer, to_boolean
from keras_attn._typing import Size, Tensor

# See `AttentionMask`.
Window = int | tuple[int, int] | None

# The parts of a mask that are arrays; the others are numbers.
TENSORS = ("key_padding", "query_padding", "query_sequence_ids", "key_sequence_ids", "dense")


@dataclasses.dataclass(frozen=True)
class AttentionMask:
    """What limits attention, as vectors and numbers; every part given must allow a pair.

    Args:
        causal: query `i` sees keys `j <= i + query_offset`.
        window: query `i` sees keys `j` with `|i + query_offset - j| < window`: the query's own and
            `window - 1` on each side. Of a pair the first number limits the keys before the query,
            and the second those after it. (`LuongAttention(window=D)` sees D keys on each side.)
        key_padding: bool `[B, S]`, False at keys that no query may attend to.
        query_padding: bool `[B, T]`, False at queries that may attend to nothing.
        query_sequence_ids: int `[B, T]`; a query sees only keys with its own id (packed rows).
        key_sequence_ids: int `[B, S]`, given together with `query_sequence_ids`.
        dense: bool, broadcastable to `[B, N, T, S]`: any pattern of the user's.
            Here and in the padding a number that is not zero counts as True; `ops.attention`
            raises for additive masks where it knows the numbers.
        query_offset: position of the first query among the keys, an int or a scalar tensor. Layers
            give `cache_index`; below 0 it is only in a block whose keys begin after its queries.

    Raises:
        ValueError: `causal` is no truth value, a window that is neither a positive integer nor a
            pair of them, sequence ids without their partner, or a part of the wrong rank.

    Example:
    >>> from keras_attn.ops.masks import AttentionMask
    >>> AttentionMask(causal=True, window=2).materialize(3, 3)[0, 0].numpy().astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [0, 1, 1]])
    """

    causal: bool = False
    window: Window = None
    key_padding: Tensor | None = None
    query_padding: Tensor | None = None
    query_sequence_ids: Tensor | None = None
    key_sequence_ids: Tensor | None = None
    dense: Tensor | None = None
    query_offset: Size = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "causal", check_flag("causal", self.causal))
        object.__setattr__(self, "window", check_window(self.window))
        if (self.query_sequence_ids is None) != (self.key_sequence_ids is None):
            raise ValueError(
                "`query_sequence_ids` and `key_sequence_ids` must be given together, got only one"
            )
        for name in TENSORS:
            part = getattr(self, name)
            if part is not None and not hasattr(part, "shape"):
                object.__setattr__(self, name, np.asarray(part))
        for name in ("key_padding", "query_padding", "query_sequence_ids", "key_sequence_ids"):
            part = getattr(self, name)
            if part is not None and len(part.shape) != 2:
                raise ValueError(
                    f"`{name}` must have rank 2, [batch, length], got shape {tuple(part.shape)}"
                )
        if self.dense is not None and len(self.dense.shape) != 4:
            raise ValueError(
                "`dense` must have rank 4, broadcastable to [batch, heads, query length, "
                f"key length], got shape {tuple(self.dense.shape)}"
            )

    @property
    def empty(self) -> bool:
        """Whether every query may attend to every key."""
        return not self.structure

    @property
    def structure(self) -> frozenset[str]:
        """The names of the parts in use, for kernels to declare what they can do."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "query_offset"]
        parts = {name: getattr(self, name) for name in names}
        return frozenset(n for n, part in parts.items() if part is not None and part is not False)

    @property
    def sides(self) -> tuple[int, int] | None:
        """The window before and after the query; None where there is no window."""
        return (self.window, self.window) if isinstance(self.window, int) else self.window

    @property
    def reach(self) -> tuple[int, int] | None:
        """How far before and after a query the last keys are that it sees in its window."""
        if self.sides is None:
            return None
        before, after = self.sides
        return before - 1, 0 if self.causal else after - 1

    @property
    def may_empty_rows(self) -> bool:
        """Whether some query might have no key at all; being causal alone never does that."""
        return bool(self.structure - {"causal"})

    @property
    def shifted(self) -> bool:
        """Whether the first query might not be at the first key."""
        return not (isinstance(self.query_offset, int) and self.query_offset == 0)

    def as_tensors(self) -> "AttentionMask":
        """The mask with every array as a tensor of the backend, as kernels take it.

        Raises for an additive mask, see `to_boolean`.
        """
        parts = {name: getattr(self, name) for name in TENSORS}
        tensors = {
            name: ops.convert_to_tensor(part)
            if name.endswith("ids")
            else to_boolean("mask.dense" if name == "dense" else name, part)
            for name, part in parts.items()
            if part is not None
        }
        return dataclasses.replace(self, **tensors) if tensors else self

    def without_query_padding(self) -> tuple:
        """The query padding, and the mask without it: padded queries are cheaper zeroed later."""
        return self.query_padding, dataclasses.replace(self, query_padding=None)

    def visible_keys(self) -> Tensor | None:
        """False at keys that no query may see, bool `[B or 1, S]`; None if the mask hides none.

        Values at such a position, even NaN, must not reach any result. Only padding and the dense
        part of the mask can hide a key from all queries.
        """
        dense = self.dense
        if dense is not None:  # over the last axes, which TensorFlow reduces six times as fast
            dense = ops.transpose(dense, (0, 3, 1, 2))
        return _merge(self.key_padding, dense, (2, 3))

    def visible_queries(self) -> Tensor | None:
        """False at queries that may see no key, bool `[B or 1, T]`; see `visible_keys`."""
        return _merge(self.query_padding, self.dense, (1, 3))

    def block(self, batch: tuple, heads: tuple, rows: tuple, keys: tuple) -> "AttentionMask":
        """The mask of one block of the matrix; each argument is `(start, size)` of one axis."""
        return dataclasses.replace(
            self,
            key_padding=_cut(self.key_padding, batch, keys),
            query_padding=_cut(self.query_padding, batch, rows),
            query_sequence_ids=_cut(self.query_sequence_ids, batch, rows),
            key_sequence_ids=_cut(self.key_sequence_ids, batch, keys),
            dense=_cut(self.dense, batch, heads, rows, keys),
            query_offset=self.query_offset + rows[0] - keys[0],
        )

    def materialize(self, query_length: Size, key_length: Size) -> Tensor | None:
        """The whole matrix, bool, broadcastable to `[B, N, T, S]`; None if it would be all True."""
        parts = []
        if self.causal or self.window is not None:
            rows = ops.arange(query_length, dtype="int32")[:, None] + self.query_offset
            keys = ops.arange(key_length, dtype="int32")[None]
            before, after = self.reach or (None, 0)
            parts.append(keys <= rows + after)
            if before is not None:
                parts.append(keys >= rows - before)
            parts = [part[None, None] for part in parts]  # [1, 1, T, S]
        if self.key_padding is not None:
            parts.append(ops.expand_dims(_boolean(self.key_padding), (1, 2)))
        if self.query_padding is not None:
            parts.append(ops.expand_dims(_boolean(self.query_padding), (1, 3)))
        if self.query_sequence_ids is not None:
            same = ops.equal(
                ops.expand_dims(self.query_sequence_ids, (1, 3)),
                ops.expand_dims(self.key_sequence_ids, (1, 2)),
            )
            parts.append(same)
        if self.dense is not None:
            parts.append(_boolean(self.dense))
        if not parts:
            return None
        return functools.reduce(ops.logical_and, parts)  # [B or 1, N or 1, T or 1, S]


def check_window(window: Any) -> Window:
    """The window in Python's integers, one where both sides are equal.

    Raises unless it is None, a positive integer or a pair of them.
    """
    if window is None:
        return None
    pair = tuple(window) if isinstance(window, list | tuple) else (window, window)
    if len(pair) != 2 or not all(is_integer(side) and side > 0 for side in pair):
        raise ValueError(
            "`window` must be a positive integer or None, or a pair of positive integers, got "
            f"{window!r}"
        )
    before, after = map(int, pair)
    return before if before == after else (before, after)


def dense_mask(attention_mask: Tensor) -> Tensor:
    """A user's `[T, S]`, `[B, T, S]` or `[B, N, T, S]` mask as `[B or 1, N or 1, T, S]`."""
    rank = len(attention_mask.shape)
    if rank == 2:
        return ops.expand_dims(attention_mask, (0, 1))
    if rank == 3:
        return ops.expand_dims(attention_mask, 1)
    if rank == 4:
        return attention_mask
    raise ValueError(
        "`attention_mask` must have shape [query length, key length], [batch, query length, key "
        "length] or [batch, heads, query length, key length], got shape "
        f"{tuple(attention_mask.shape)}"
    )


def _cut(part: Tensor | None, *ranges: tuple) -> Tensor | None:
    if part is None:
        return None
    whole = [length == 1 for length in part.shape]  # such an axis is broadcast, never cut
    starts = [0 if one else start for one, (start, _) in zip(whole, ranges, strict=True)]
    sizes = [1 if one else size for one, (_, size) in zip(whole, ranges, strict=True)]
    return ops.slice(part, starts, sizes)


def _merge(padding: Tensor | None, dense: Tensor | None, axes: tuple) -> Tensor | None:
    """True where the padding is and where the dense mask is anywhere along the other axes."""
    parts = [] if padding is None else [_boolean(padding)]
    if dense is not None:
        parts.append(ops.any(_boolean(dense), axis=axes))
    return functools.reduce(ops.logical_and, parts) if parts else None


def _boolean(mask: Tensor) -> Tensor:
    return ops.cast(mask, "bool")
