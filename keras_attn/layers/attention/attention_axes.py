"""Attention over some of many axes: the others count as batch.

Letters: B batch, F the free axes (none, one or more), A the axes that are attended over, N heads, H
head width, T and S the product of the query's and the key's A.
"""

import math
from typing import Any

from keras import ops


class AttentionAxes:
    """Brings `[B, F and A mixed, ...]` to the `[B F, T, ...]` that attention takes, and back.

    Args:
        attended: A, axes of the inputs, from 1 on; positions are counted along them in this order.
        rank: of the inputs `[B, F and A mixed, D]`.
    """

    def __init__(self, attended: tuple[int, ...], rank: int) -> None:
        self.attended = tuple(attended)
        self.free = tuple(axis for axis in range(1, rank - 1) if axis not in self.attended)
        self._trivial = rank == 3 and not self.free

    def merge(self, tensor: Any) -> Any:
        """`[B F, T, ...]` of `[B, F and A mixed, ...]`."""
        if self._trivial:
            return tensor
        count = 1 + len(self.free) + len(self.attended)
        rest = range(count, len(tensor.shape))
        shape = ops.shape(tensor)
        tensor = ops.transpose(tensor, (0, *self.free, *self.attended, *rest))
        rows = math.prod(shape[axis] for axis in (0, *self.free))
        length = math.prod(shape[axis] for axis in self.attended)
        return ops.reshape(tensor, (rows, length, *(shape[axis] for axis in rest)))

    def split(self, tensor: Any, like: Any) -> Any:
        """`[B, F and A mixed, ...]` of `[B F, T, ...]`, where `like` is one of the inputs."""
        if self._trivial:
            return tensor
        shape = ops.shape(like)
        order = (0, *self.free, *self.attended)
        tensor = ops.reshape(tensor, (*(shape[axis] for axis in order), *ops.shape(tensor)[2:]))
        rest = range(len(order), len(tensor.shape))
        return ops.transpose(tensor, (*(order.index(axis) for axis in range(len(order))), *rest))

    def split_scores(self, scores: Any, query: Any, key: Any) -> Any:
        """`[B, F, N, A of the query, A of the key]` of `[B F, N, T, S]`."""
        if self._trivial:
            return scores
        queries, keys = ops.shape(query), ops.shape(key)
        shape = [queries[axis] for axis in (0, *self.free)]
        shape += [ops.shape(scores)[1], *(queries[axis] for axis in self.attended)]
        return ops.reshape(scores, (*shape, *(keys[axis] for axis in self.attended)))

    def merge_padding(self, name: str, mask: Any, like: Any) -> Any:
        """`[B F, T]` of a mask `[B, F and A mixed]` or `[B, A]`; None of None."""
        if mask is None or self._trivial:
            return mask
        rank, shape = len(mask.shape), ops.shape(like)
        if rank == 1 + len(self.attended):
            for axis in self.free:
                mask = ops.expand_dims(mask, axis)
        elif rank != 1 + len(self.free) + len(self.attended):
            raise ValueError(
                f"`{name}` must have one axis for the batch and one for each of the axes "
                f"{self.attended}, or for each axis of the input but the last, got shape "
                f"{tuple(mask.shape)}"
            )
        return self.merge(ops.broadcast_to(mask, shape[:-1]))

    def merge_mask(self, mask: Any, query: Any, key: Any) -> Any:
        """`[B F, N or 1, T, S]` of `[B, F, N, A of the query, A of the key]`; None of None.

        Axes may be missing: those of the heads first, then from the left; each axis but the last
        two sets may have length 1.
        """
        if mask is None:
            return None
        matrix = 2 * len(self.attended)
        wanted = 2 + len(self.free) + matrix
        if not matrix <= len(mask.shape) <= wanted:
            raise ValueError(
                f"`attention_mask` must have between {matrix} and {wanted} axes, the last of them "
                f"those of queries and keys, got shape {tuple(mask.shape)}"
            )
        while len(mask.shape) < wanted:
            mask = ops.expand_dims(mask, -matrix - 1)
        if self._trivial:
            return mask
        queries, keys, shape = ops.shape(query), ops.shape(key), ops.shape(mask)
        free = [queries[axis] for axis in (0, *self.free)]
        heads = shape[len(free)]
        sizes = [queries[axis] for axis in self.attended], [keys[axis] for axis in self.attended]
        mask = ops.broadcast_to(mask, (*free, heads, *sizes[0], *sizes[1]))
        return ops.reshape(mask, (math.prod(free), heads, *map(math.prod, sizes)))
