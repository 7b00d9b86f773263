"""One tile of the matrix of logits on TensorFlow: its weights, its context, its gradients.

Letters: B batch, T query length, N query heads, G heads in a group, H head width, Hv value width;
in a tile: k key/value heads, r rows, s keys.
"""

import dataclasses
from typing import Any

import tensorflow as tf

from keras_attn.ops.kernels.band_mask_tf import MASKED
from keras_attn.ops.kernels.plan_tf import Span, key_range, product_type, size
from keras_attn.ops.kernels.reference import hidden, visible_pairs
from keras_attn.ops.masks import AttentionMask


class Tile:
    """A block of query rows of one span, with the keys that they may see."""

    def __init__(self, span: Span, index: Any, query: Any, parameters: tuple) -> None:
        plan = span.plan
        self.plan, self.span, self.index = plan, span, index
        self.row = tf.minimum(index * plan.rows, plan.length - plan.rows)
        self.first_key, self.keys = key_range(span, self.row)
        self.key, self.value = self._cut(span.key), self._cut(span.value)  # [k, s, H]
        visible = self._visible_rows(span.visible_queries)
        self.query = self._rows(query, plan.scale, visible)  # [k, G r, H]
        logits, some = self._logits(plan.bias.tile(self, parameters))
        self.alive = None if some is None else tf.cast(self.split_heads(some), plan.precision)
        self.weights = tf.nn.softmax(tf.reshape(logits, (plan.heads, -1, self.keys)))  # [k, G r, s]

    @property
    def heads(self) -> tuple:
        """The query heads: the first, and how many."""
        return self.span.head * self.plan.group, self.plan.heads * self.plan.group

    @property
    def positions(self) -> tuple:
        """Of the rows and of the keys, among the keys."""
        rows = tf.range(self.plan.rows) + (self.row + self.plan.mask.query_offset)
        return rows, tf.range(self.keys) + self.first_key

    def context(self) -> Any:
        """`[r, k G, Hv]`."""
        weights = self.weights * self._keep() if self.plan.dropout else self.weights
        context = tf.matmul(tf.cast(weights, self.value.dtype), self.value)
        context = self.by_head(tf.cast(context, self.plan.precision))
        return self._rows_first(context if self.alive is None else context * self.alive)

    def gradients(self, d_context: Any, context: Any) -> tuple:
        """Of query `[r, k G, H]`, key and value `[k, s, ...]`, and logits `[k, G, r, s]`."""
        fresh = tf.range(self.plan.rows) + self.row >= self.index * self.plan.rows
        fresh = tf.cast(fresh, self.plan.precision)[:, None]
        counts = fresh if self.alive is None else fresh * self.alive
        d_context = self._rows(d_context, counts)  # [k, G r, Hv]
        context = self._rows(context)
        dropped, d_logits = self._d_logits(d_context, context)
        kind = self.value.dtype
        d_value = tf.matmul(tf.cast(dropped, kind), d_context, transpose_a=True)
        products = tf.cast(d_logits, kind)
        d_key = tf.matmul(products, self.query, transpose_a=True)
        d_query = tf.cast(tf.matmul(products, self.key), self.plan.precision) * self.plan.scale
        d_key, d_value = tf.cast(d_key, self.plan.precision), tf.cast(d_value, self.plan.precision)
        return self._rows_first(self.by_head(d_query)), d_key, d_value, self.by_head(d_logits)

    def by_head(self, tensor: Any) -> Any:
        """`[k, G, r, ...]` from `[k, G r, ...]`."""
        width = size(tensor, len(tensor.shape) - 1)
        return tf.reshape(tensor, (self.plan.heads, self.plan.group, self.plan.rows, width))

    def split_heads(self, part: Any) -> Any:
        """`[k or 1, G or 1, ...]` from `[1, k G or 1, ...]`."""
        if part.shape[1] == 1:
            return part
        heads = (self.plan.heads, self.plan.group)
        return tf.reshape(part, (*heads, size(part, 2), size(part, 3)))

    def _d_logits(self, d_context: Any, context: Any) -> tuple:
        """The weights after dropout, and the gradient of the logits."""
        value = self.value
        if self.plan.dropout or value.dtype not in (tf.float32, tf.float64):
            dropped = self.weights * self._keep() if self.plan.dropout else self.weights
            d_weights = tf.cast(tf.matmul(d_context, value, transpose_b=True), self.plan.precision)
            products = dropped * d_weights
            return dropped, products - self.weights * tf.reduce_sum(products, -1, keepdims=True)
        # That sum is known from the context too, if no less precise, and enters the product, so
        # that only one more pass touches the tile.
        delta = tf.reduce_sum(d_context * context, -1, keepdims=True)  # [k, G r, 1]
        d_context = tf.concat([d_context, -delta], -1)
        value = tf.concat([value, tf.ones_like(value[..., :1])], -1)
        return self.weights, self.weights * tf.matmul(d_context, value, transpose_b=True)

    def _logits(self, bias: Any) -> tuple:
        """The logits `[k, G, r, s]` after bias and mask, and which rows have a key, or None."""
        rows, keys = (self.row, self.plan.rows), (self.first_key, self.keys)
        block = self.plan.mask.block((self.span.batch, 1), self.heads, rows, keys)
        if bias is None:
            return self._masked_logits(block)
        band = self.plan.band
        if band is None:
            visible = block.materialize(self.plan.rows, self.keys)
        else:
            padding = dataclasses.replace(block, causal=False, window=None)
            visible = band.tile(band.visible, *self.positions)[None, None]
            if not padding.empty:
                visible &= padding.materialize(self.plan.rows, self.keys)
        visible, some = visible_pairs(visible, bias, True)
        logits = self.by_head(self._products()) + self.split_heads(bias)
        low = self.split_heads(tf.cast(hidden(some), self.plan.precision))
        return tf.where(self.split_heads(visible), logits, low), some

    def _masked_logits(self, block: AttentionMask) -> tuple:
        """As `_logits`; without a bias adding -1e30 hides, which costs less than a choice."""
        rows, block = block.without_query_padding()
        alive = None if rows is None else tf.cast(rows, "bool")[:, None, :, None]
        masked, column, some, band = None, None, None, self.plan.band
        if band is not None:
            some = band.some(self.positions[0], self.span.real)
            masked = band.tile(band.added, *self.positions)[None, None]
            if block.key_padding is not None:
                column = self._added(tf.cast(block.key_padding, "bool"))
        elif not block.empty:
            allowed = block.materialize(self.plan.rows, self.keys)  # [1, 1 or k G, 1 or r, s]
            masked, some = self._added(allowed), tf.reduce_any(allowed, -1, keepdims=True)
            if masked.shape[1] == masked.shape[2] == 1:
                masked, column = None, masked[:, 0, 0]
        logits = self.by_head(self._products(column))
        if masked is not None:
            logits += self.split_heads(masked)
        return logits, some if alive is None else alive if some is None else alive & some

    def _added(self, visible: Any) -> Any:
        return tf.cast(tf.where(visible, 0.0, MASKED), self.plan.precision)

    def _products(self, column: Any = None) -> Any:
        """The products of queries and keys `[k, G r, s]`, plus `column` `[1, s]` in every row."""
        query, key = self.query, self.key
        if column is not None:  # one more column of the product costs less than another pass
            column = tf.cast(column[..., None], key.dtype)  # [1, s, 1]
            key = tf.concat([key, tf.repeat(column, self.plan.heads, 0)], -1)
            query = tf.concat([query, tf.ones_like(query[..., :1])], -1)
        return tf.cast(tf.matmul(query, key, transpose_b=True), self.plan.precision)

    def _keep(self) -> Any:
        """Zero where a weight is dropped, else what scales the others up, `[k, G r, s]`."""
        step = self.span.index * self.plan.blocks + self.index
        seed = tf.random.experimental.stateless_fold_in(tf.cast(self.plan.seed, "int32"), step)
        draw = tf.random.stateless_uniform(tf.shape(self.weights), seed)
        rate = self.plan.dropout
        return tf.cast(draw >= rate, self.plan.precision) / (1 - rate)

    def _cut(self, tensor: Any) -> Any:
        size = (self.plan.heads, self.keys, tensor.shape[-1])
        return tf.slice(tensor, (0, self.first_key, 0), size)

    def _visible_rows(self, visible: Any) -> Any:
        if visible is None or visible.shape[0] == 1:
            return visible
        return tf.slice(visible, (self.row,), (self.plan.rows,))

    def _rows(self, tensor: Any, factor: Any = 1.0, visible: Any = None) -> Any:
        """These rows `[k, G r, H]` of a tensor `[B, T, N, H]`, times a factor `[k, G, r, 1]`.

        Rows that are not visible are zeros.
        """
        (head, heads), width = self.heads, tensor.shape[-1]
        begin, count = (self.span.batch, self.row, head, 0), (1, self.plan.rows, heads, width)
        rows = product_type(tf.slice(tensor, begin, count)[0])
        if visible is not None:
            rows = tf.where(visible[:, None, None], rows, tf.zeros((), rows.dtype))
        rows = tf.transpose(rows, (1, 0, 2))  # [k G, r, H]
        if tf.is_tensor(factor):  # a cast of a number would round it to float32
            factor = tf.cast(factor, rows.dtype)
        rows = self.by_head(rows) * factor
        return tf.reshape(rows, (self.plan.heads, -1, width))

    def _rows_first(self, tensor: Any) -> Any:
        """`[r, k G, H]` from `[k, G, r, H]`."""
        rows = tf.transpose(tensor, (2, 0, 1, 3))
        return tf.reshape(rows, (self.plan.rows, self.heads[1], tensor.shape[-1]))
