"""How `chunked_tf` cuts one call into tiles.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, G heads in a
group (N = K G), H head width, Hv value width; in a tile: k key/value heads, r rows, s keys.
"""

import dataclasses
from typing import Any

import tensorflow as tf

from keras_attn.backend.tensorflow import under_xla
from keras_attn.ops.kernels.band_mask_tf import band_mask
from keras_attn.ops.masks import AttentionMask
from keras_attn.ops.numerics import wide

# Logits in a tile, from measurements: its temporaries stay in the cache and below the size from
# which the allocator asks the system for fresh pages each time; twice as many cost 1.5 times more.
TILE = 2**21
# Query rows in a tile, over all heads of a group; the products are slow with fewer.
FEWEST, MOST = 128, 512


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one call is cut into tiles, and all that is the same in every tile.

    Where `fixed`, as XLA needs it, all tiles have one size and may hold masked keys.
    """

    mask: AttentionMask
    bias: Any
    scale: float
    dropout: float
    seed: Any
    batch: Any
    length: Any
    keys: Any
    group: int
    runs: int
    heads: int
    rows: Any
    band: Any
    precision: str
    fixed: bool

    @classmethod
    def of(cls, query: Any, key: Any, *, block_size: int | None, **asked: Any) -> "Plan":
        """The plan for these tensors; the blocks fit the shapes unless given."""
        length, keys = size(query, 1), size(key, 1)
        heads, group = key.shape[2], query.shape[2] // key.shape[2]
        rows = block_size or _rows_of_block(asked["mask"], length, keys, group)
        rows = _least(length, rows)
        most = band(asked["mask"], rows, keys)
        tile = rows * group * most
        fit = [n for n in range(1, heads + 1) if heads % n == 0 and _known(n * tile <= TILE)]
        heads = max(fit, default=1)
        return cls(
            batch=size(query, 0),
            length=length,
            keys=keys,
            group=group,
            runs=key.shape[2] // heads,
            heads=heads,
            rows=rows,
            # XLA makes the masks of a tile on the fly, and slices nothing of dynamic size.
            band=None
            if under_xla()
            else band_mask(asked["mask"], rows, most, keys, wide(query.dtype)),
            precision=wide(query.dtype),
            fixed=under_xla(),
            **asked,
        )

    @property
    def spans(self) -> Any:
        """How many runs of heads there are in the whole batch."""
        return self.batch * self.runs

    @property
    def blocks(self) -> Any:
        """How many blocks of rows; the last one is moved up to end with the query."""
        return (self.length + self.rows - 1) // self.rows

    def join(self, blocks: Any) -> Any:
        """`[T, ...]` from stacked blocks `[blocks, r, ...]`, whose last one overlaps."""
        whole = tf.reshape(blocks[:-1], (-1, *blocks.shape[2:]))
        rest = self.length - (self.blocks - 1) * self.rows
        return tf.concat([whole, blocks[-1, self.rows - rest :]], 0)

    def assemble(self, spans: Any) -> Any:
        """`[B, L, heads, width]` from stacked spans `[B runs, L, heads / runs, width]`."""
        length, heads, width = size(spans, 1), spans.shape[2], spans.shape[3]
        spans = tf.reshape(spans, (self.batch, self.runs, length, heads, width))
        spans = tf.transpose(spans, (0, 2, 1, 3, 4))
        return tf.reshape(spans, (self.batch, length, self.runs * heads, width))


class Span:
    """A run of key/value heads in one row of the batch, heads first."""

    def __init__(self, plan: Plan, index: Any, key: Any, value: Any) -> None:
        self.plan = plan
        self.index = index
        self.batch = index // plan.runs
        self.head = index % plan.runs * plan.heads
        visible = self._part(plan.mask.visible_keys())  # [S] or [1]
        self.key = self._heads_first(key, visible)  # [k, S, H]
        self.value = self._heads_first(value, visible)  # [k, S, Hv]
        self.visible_queries = self._part(plan.mask.visible_queries())  # [T] or [1]
        self.real = self._real()

    def _real(self) -> Any:
        """How many of the first j keys are no padding, `[S + 1]`, or None if all are."""
        if self.plan.mask.key_padding is None:
            return None
        block = self.plan.mask.block((self.batch, 1), (0, 1), (0, 1), (0, self.plan.keys))
        real = tf.broadcast_to(tf.cast(block.key_padding[0], "int32"), (self.plan.keys,))
        return tf.pad(tf.cumsum(real), ((1, 0),))

    def _part(self, visible: Any) -> Any:
        """This row of the batch of `[B or 1, L]`."""
        return None if visible is None else visible[0 if visible.shape[0] == 1 else self.batch]

    def _heads_first(self, tensor: Any, visible: Any) -> Any:
        shape = (1, self.plan.keys, self.plan.heads, tensor.shape[-1])
        part = tf.slice(tensor, (self.batch, 0, self.head, 0), shape)[0]
        if visible is not None:  # what is hidden may be NaN, which a weight of zero does not remove
            part = tf.where(visible[:, None, None], part, tf.zeros((), part.dtype))
        return tf.transpose(product_type(part), (1, 0, 2))


def size(tensor: Any, axis: int) -> Any:
    """The length of an axis, an int where it is known."""
    length = tensor.shape[axis]
    return tf.shape(tensor)[axis] if length is None else length


def product_type(tensor: Any) -> Any:
    """The tensor in the type of the products; there are no fast ones in float16 on a CPU."""
    return tf.cast(tensor, "float32") if tensor.dtype == tf.float16 else tensor


def key_range(span: Span, row: Any) -> tuple:
    """The first key that the block of rows from `row` may see, and how many there are."""
    plan, mask = span.plan, span.plan.mask
    first = row + mask.query_offset
    if mask.window is not None:
        count = band(mask, plan.rows, plan.keys)
        return tf.clip_by_value(first - mask.reach, 0, plan.keys - count), count
    start, stop = 0, plan.keys
    if plan.fixed:
        return start, stop
    if mask.causal:
        stop = tf.minimum(stop, first + plan.rows)
    if mask.query_sequence_ids is not None:
        near, far = _range_of_ids(span, row)
        start, stop = tf.maximum(start, near), tf.minimum(stop, far)
    if stop is plan.keys:
        return start, stop
    start = tf.minimum(start, plan.keys)
    return start, tf.maximum(stop - start, 0)


def _range_of_ids(span: Span, row: Any) -> tuple:
    """From the first to the last key whose id lies between the smallest and largest of the rows."""
    plan = span.plan
    block = plan.mask.block((span.batch, 1), (0, 1), (row, plan.rows), (0, plan.keys))
    rows, keys = block.query_sequence_ids, block.key_sequence_ids[0]
    inside = (keys >= tf.reduce_min(rows)) & (keys <= tf.reduce_max(rows))
    found = tf.where(inside, tf.range(plan.keys), -1)
    last = tf.reduce_max(found)
    return tf.where(last < 0, 0, tf.argmax(inside, output_type=tf.int32)), last + 1


def _rows_of_block(mask: AttentionMask, length: Any, keys: Any, group: int) -> Any:
    most = MOST // 2 if mask.causal else MOST  # less beyond the diagonal
    if mask.window is not None:
        # A fifth of the tile lies outside of the band.
        rows = min(max(mask.window // 2, FEWEST), most)
    elif isinstance(keys, int):
        rows = min(max(TILE // keys, FEWEST), most)
    else:
        rows = tf.clip_by_value(TILE // tf.maximum(keys, 1), FEWEST, most)
    blocks = -(-length * group // rows)
    return -(-length // blocks)  # equal blocks: the last, moved up, computes little again


def band(mask: AttentionMask, rows: Any, keys: Any) -> Any:
    """How many keys a block of rows may see, but for sequence ids."""
    if mask.window is None:
        return keys
    return _least(keys, rows + (mask.reach if mask.causal else 2 * mask.reach))


def _known(condition: Any) -> bool:
    """Whether something holds, as far as shapes tell; they may be tensors."""
    return condition is True


def _least(first: Any, second: Any) -> Any:
    if isinstance(first, int) and isinstance(second, int):
        return min(first, second)
    return tf.minimum(first, second)
