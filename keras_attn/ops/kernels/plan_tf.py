"""How `chunked_tf` cuts one call: a plan of tiles, and the spans that the tiles are cut from.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, G heads in a
group (N = K G), H head width, Hv value width; in a tile: k key/value heads, r rows, s keys.
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from keras_attn._typing import Size, Tensor
from keras_attn.backend.tensorflow import size, under_xla
from keras_attn.ops.kernels import schedule
from keras_attn.ops.kernels.terms_tf import Band, band_of
from keras_attn.ops.masks import AttentionMask
from keras_attn.ops.numerics import wide


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one call is cut into tiles, and all that is the same in every tile.

    Where `fixed`, as XLA needs it, all tiles have one size and may hold masked keys.
    """

    mask: AttentionMask
    visible_keys: Tensor | None
    visible_queries: Tensor | None
    scale: float
    logits_soft_cap: float | None
    sink: Tensor | None
    dropout: float
    seed: Tensor | None
    batch: Size
    length: Size
    keys: Size
    group: int
    heads: int
    runs: int
    rows: Size
    band: Band | None
    precision: str
    fixed: bool

    @property
    def spans(self) -> Size:
        """How many spans there are in the whole batch."""
        return self.batch * self.runs

    @property
    def blocks(self) -> Size:
        """How many blocks of rows; the last one is moved up to end with the query."""
        return (self.length + self.rows - 1) // self.rows


def plan_of(
    query: Tensor,
    key: Tensor,
    *,
    mask: AttentionMask,
    scale: float,
    logits_soft_cap: float | None,
    sink: Tensor | None,
    dropout: float,
    seed: Tensor | None,
    block_size: int | None,
    device: str,
) -> Plan:
    """The plan for these tensors; `block_size` defaults to what fits the shapes and the device."""
    length, keys, precision = size(query, 1), size(key, 1), wide(query.dtype)
    group, tile = query.shape[2] // key.shape[2], schedule.TILES.get(device, schedule.TILES["cpu"])
    rows = schedule.rows_of_tile(mask, length, keys, group, block_size, tile)
    most = schedule.band(mask, rows, keys)
    heads = schedule.heads_of_tile(key.shape[2], rows * group * most, tile)
    fixed = under_xla()
    return Plan(
        mask=mask,
        visible_keys=mask.visible_keys(),
        visible_queries=mask.visible_queries(),
        scale=scale,
        logits_soft_cap=logits_soft_cap,
        sink=sink,
        dropout=dropout,
        seed=seed,
        batch=size(query, 0),
        length=length,
        keys=keys,
        group=group,
        heads=heads,
        runs=key.shape[2] // heads,
        rows=rows,
        # XLA makes the masks of a tile on the fly, and slices nothing of dynamic size.
        band=None if fixed else band_of(mask, rows, most, keys, precision),
        precision=precision,
        fixed=fixed,
    )


class Span(NamedTuple):
    """A run of key/value heads in one row of the batch, heads first."""

    index: Size
    batch: Size
    head: Size
    key: Tensor  # [k, S, H]
    value: Tensor  # [k, S, Hv]
    visible_queries: Tensor | None  # bool [T] or [1], or None
    real: Tensor | None  # how many of the first j keys are no padding, [S + 1], or None if all are


def cut_span(plan: Plan, index: Size, key: Tensor, value: Tensor) -> Span:
    """The span of this number."""
    batch, head = index // plan.runs, index % plan.runs * plan.heads
    visible, visible_queries = (
        None if part is None else part[0 if part.shape[0] == 1 else batch]
        for part in (plan.visible_keys, plan.visible_queries)
    )
    parts = []
    for tensor in (key, value):
        shape = (1, plan.keys, plan.heads, tensor.shape[-1])
        part = tf.slice(tensor, (batch, 0, head, 0), shape)[0]
        if visible is not None:  # what is hidden may be NaN, which a weight of zero does not remove
            part = tf.where(visible[:, None, None], part, tf.zeros((), part.dtype))
        parts.append(tf.transpose(product_type(part), (1, 0, 2)))
    real = None
    if plan.mask.key_padding is not None:
        row = plan.mask.block((batch, 1), (0, 1), (0, 1), (0, plan.keys)).key_padding
        real = tf.broadcast_to(tf.cast(row, "int32")[0], (plan.keys,))
        real = tf.pad(tf.cumsum(real), ((1, 0),))
    return Span(index, batch, head, parts[0], parts[1], visible_queries, real)


def key_range(plan: Plan, span: Span, row: Size) -> tuple:
    """The first key that the block of rows from `row` may see, and how many there are."""
    mask, keys = plan.mask, plan.keys
    if mask.window is not None:
        count = schedule.band(mask, plan.rows, keys)
        return schedule.band_start(mask, row, keys, count), count
    if plan.fixed:
        return 0, keys
    start, stop = schedule.key_range(mask, row, plan.rows, keys)
    if mask.query_sequence_ids is not None:
        near, far = _range_of_ids(plan, span, row)
        start, stop = tf.maximum(start, near), tf.minimum(stop, far)
    if stop is keys:
        return 0, keys
    start = tf.minimum(start, keys)
    return start, tf.maximum(stop - start, 0)


def _range_of_ids(plan: Plan, span: Span, row: Size) -> tuple:
    """From the first to the last key whose id lies between the smallest and largest of the rows."""
    block = plan.mask.block((span.batch, 1), (0, 1), (row, plan.rows), (0, plan.keys))
    rows, keys = block.query_sequence_ids, tf.squeeze(block.key_sequence_ids, 0)
    inside = (keys >= tf.reduce_min(rows)) & (keys <= tf.reduce_max(rows))
    found = tf.where(inside, tf.range(plan.keys), -1)
    last = tf.reduce_max(found)
    return tf.where(last < 0, 0, tf.argmax(inside, output_type=tf.int32)), last + 1


def product_type(tensor: Tensor) -> Tensor:
    """The tensor in the type of the products: there are no fast ones in float16 on a CPU.

    On a GPU it is the same, which was not measured.
    """
    return tf.cast(tensor, "float32") if tensor.dtype == tf.float16 else tensor
