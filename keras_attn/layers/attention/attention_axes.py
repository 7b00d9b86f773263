"""Attention over some of many axes: the others count as batch.

Letters: B batch, I the free (independent) axes (none, one or more), A the axes that are attended
over, N heads, H head width, T and S the product of the query's and the key's A.
"""

import math

from keras import ops

from keras_attn._checks import check_shape, to_boolean
from keras_attn._typing import Shape, Tensor


class AttentionAxes:
    """A reshaping of `[B, I and A mixed, ...]` to the `[B I, T, ...]` of attention, and back.

    Args:
        attended: A, axes of the inputs, at least 1; positions are counted along them in this order.
        rank: rank of the inputs `[B, I and A mixed, D]`.
    """

    def __init__(self, attended: tuple[int, ...], rank: int) -> None:
        self.attended = tuple(attended)
        self.free = tuple(axis for axis in range(1, rank - 1) if axis not in self.attended)
        self._trivial = rank == 3 and not self.free

    def merge(self, tensor: Tensor) -> Tensor:
        """`[B, I and A mixed, ...]` to `[B I, T, ...]`."""
        if self._trivial:
            return tensor
        count = 1 + len(self.free) + len(self.attended)
        rest = range(count, len(tensor.shape))
        shape = ops.shape(tensor)
        tensor = ops.transpose(tensor, (0, *self.free, *self.attended, *rest))
        rows = math.prod(shape[axis] for axis in (0, *self.free))
        length = math.prod(shape[axis] for axis in self.attended)
        return ops.reshape(tensor, (rows, length, *(shape[axis] for axis in rest)))

    def split(self, tensor: Tensor, like: Tensor) -> Tensor:
        """`[B I, T, ...]` to `[B, I and A mixed, ...]`, where `like` is one of the inputs."""
        if self._trivial:
            return tensor
        shape = ops.shape(like)
        order = (0, *self.free, *self.attended)
        tensor = ops.reshape(tensor, (*(shape[axis] for axis in order), *ops.shape(tensor)[2:]))
        rest = range(len(order), len(tensor.shape))
        return ops.transpose(tensor, (*(order.index(axis) for axis in range(len(order))), *rest))

    def split_scores(self, scores: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """`[B I, N, T, S]` to `[B, I, N, A of the query, A of the key]`."""
        if self._trivial:
            return scores
        queries, keys = ops.shape(query), ops.shape(key)
        shape = [queries[axis] for axis in (0, *self.free)]
        shape += [ops.shape(scores)[1], *(queries[axis] for axis in self.attended)]
        return ops.reshape(scores, (*shape, *(keys[axis] for axis in self.attended)))

    def scores_shape(self, query_shape: Shape, key_shape: Shape, heads: int) -> tuple:
        """The shape of the result of `split_scores`."""
        free = (query_shape[axis] for axis in (0, *self.free))
        queries = (query_shape[axis] for axis in self.attended)
        return (*free, heads, *queries, *(key_shape[axis] for axis in self.attended))

    def check_padding(self, name: str, mask: Tensor | None, like: Tensor) -> Tensor | None:
        """A mask `[B, I and A mixed]` or `[B, A]` as a tensor of the first shape, or None."""
        if mask is None:
            return None
        mask = to_boolean(name, mask)
        every = range(1, len(like.shape) - 1)
        axes = sorted(self.attended) if len(mask.shape) == 1 + len(self.attended) else every
        sizes = {f"axis_{axis}": like.shape[axis] for axis in axes}
        check_shape(name, mask.shape, broadcast=True, batch=like.shape[0], **sizes)
        if len(mask.shape) < len(like.shape) - 1:
            for axis in self.free:
                mask = ops.expand_dims(mask, axis)
        return mask

    def merge_padding(self, mask: Tensor | None, like: Tensor) -> Tensor | None:
        """`[B I, T]` from a checked padding mask; None stays None."""
        if mask is None or self._trivial:
            return mask
        return self.merge(ops.broadcast_to(mask, ops.shape(like)[:-1]))

    def check_mask(self, mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
        """A mask `[B, I, N, A of the query, A of the key]` as a tensor; None stays None.

        Axes may be missing: first that of the heads, then the free ones, then the batch; each axis
        may have length 1.
        """
        if mask is None:
            return None
        mask = to_boolean("attention_mask", mask)
        matrix = 2 * len(self.attended)
        wanted = 2 + len(self.free) + matrix
        if not matrix <= len(mask.shape) <= wanted:
            raise ValueError(
                f"`attention_mask` must have between {matrix} and {wanted} axes, the last of them "
                f"those of queries and keys, got shape {tuple(mask.shape)}"
            )
        leading = {"batch": query.shape[0]}
        leading |= {f"axis_{axis}": query.shape[axis] for axis in self.free} | {"heads": None}
        rows = {f"query_axis_{axis}": query.shape[axis] for axis in self.attended}
        columns = {f"key_axis_{axis}": key.shape[axis] for axis in self.attended}
        given = dict([*leading.items()][: len(mask.shape) - matrix])
        check_shape("attention_mask", mask.shape, broadcast=True, **given, **rows, **columns)
        return mask

    def merge_mask(self, mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
        """`[B I, N or 1, T, S]` from a checked mask; None stays None."""
        if mask is None:
            return None
        matrix = 2 * len(self.attended)
        while len(mask.shape) < 2 + len(self.free) + matrix:
            mask = ops.expand_dims(mask, -matrix - 1)
        if self._trivial:
            return mask
        queries, keys, shape = ops.shape(query), ops.shape(key), ops.shape(mask)
        free = [queries[axis] for axis in (0, *self.free)]
        heads = shape[len(free)]
        sizes = [queries[axis] for axis in self.attended], [keys[axis] for axis in self.attended]
        mask = ops.broadcast_to(mask, (*free, heads, *sizes[0], *sizes[1]))
        return ops.reshape(mask, (math.prod(free), heads, *map(math.prod, sizes)))
