"""One tile of the matrix of logits on TensorFlow: its weights, its context, its gradients.

Letters: B batch, T query length, N query heads, G heads in a group, H head width, Hv value width;
in a tile: k key/value heads, r rows, s keys.
"""

from typing import Any

import tensorflow as tf

from keras_attn.ops.kernels.plan_tf import Span, key_range, product_type, size
from keras_attn.ops.kernels.reference import MASKED


class Tile:
    """A block of query rows of one span, with the keys that they may see."""

    def __init__(self, span: Span, index: Any, query: Any, parameters: tuple) -> None:
        plan = span.plan
        self.plan, self.span, self.index = plan, span, index
        self.row = tf.minimum(index * plan.rows, plan.length - plan.rows)
        self.first_key, self.keys = key_range(span, self.row)
        self.key, self.value = self._cut(span.key), self._cut(span.value)  # [k, s, H]
        self.query = self._rows(query, plan.scale)  # [k, G r, H]
        masked, column, self.alive = self._mask()
        bias = plan.bias.tile(self, parameters)
        self.weights = self._softmax(masked, column, bias)  # [k, G r, s]

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
        context = self.by_head(tf.cast(context, "float32"))
        return self._rows_first(context if self.alive is None else context * self.alive)

    def gradients(self, d_context: Any, context: Any) -> tuple:
        """Of query `[r, k G, H]`, key and value `[k, s, ...]`, and logits `[k, G, r, s]`."""
        fresh = tf.range(self.plan.rows) + self.row >= self.index * self.plan.rows
        fresh = tf.cast(fresh, "float32")[:, None]
        counts = fresh if self.alive is None else fresh * self.alive
        d_context = self._rows(d_context, counts)  # [k, G r, Hv]
        context = self._rows(context)
        dropped, d_logits = self._d_logits(d_context, context)
        kind = self.value.dtype
        d_value = tf.matmul(tf.cast(dropped, kind), d_context, transpose_a=True)
        products = tf.cast(d_logits, kind)
        d_key = tf.matmul(products, self.query, transpose_a=True)
        d_query = tf.cast(tf.matmul(products, self.key), "float32") * self.plan.scale
        d_key, d_value = tf.cast(d_key, "float32"), tf.cast(d_value, "float32")
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
        if self.plan.dropout or value.dtype != "float32":
            dropped = self.weights * self._keep() if self.plan.dropout else self.weights
            d_weights = tf.cast(tf.matmul(d_context, value, transpose_b=True), "float32")
            products = dropped * d_weights
            return dropped, products - self.weights * tf.reduce_sum(products, -1, keepdims=True)
        # That sum is known from the context too, if no less precise, and enters the product, so
        # that only one more pass touches the tile.
        delta = tf.reduce_sum(d_context * context, -1, keepdims=True)  # [k, G r, 1]
        d_context = tf.concat([d_context, -delta], -1)
        value = tf.concat([value, tf.ones_like(value[..., :1])], -1)
        return self.weights, self.weights * tf.matmul(d_context, value, transpose_b=True)

    def _softmax(self, masked: Any, column: Any, bias: Any) -> Any:
        query, key = self.query, self.key
        if column is not None:
            column = tf.cast(column[..., None], key.dtype)  # [1, s, 1]
            key = tf.concat([key, tf.repeat(column, self.plan.heads, 0)], -1)
            query = tf.concat([query, tf.ones_like(query[..., :1])], -1)
        logits = tf.cast(tf.matmul(query, key, transpose_b=True), "float32")
        for part in (bias, masked):
            if part is not None:
                logits = self.by_head(logits) + self.split_heads(part)
        if self.plan.band is not None:
            logits = self.plan.band.add(self.by_head(logits), *self.positions)
        return tf.nn.softmax(tf.reshape(logits, (self.plan.heads, -1, self.keys)))

    def _mask(self) -> tuple:
        """What is added to the logits, and 1.0 for each row that has a key; all may be None.

        First what differs between rows, then what hides a key from all rows alike, `[1, s]`, which
        goes into the product, as one more column. What the plan's band masks is no part of them.
        """
        rows, keys = (self.row, self.plan.rows), (self.first_key, self.keys)
        block = self.plan.mask.block((self.span.batch, 1), self.heads, rows, keys)
        rows, block = block.without_query_padding()
        alive = None if rows is None else tf.cast(rows, "float32")[:, None, :, None]
        masked, column, some = None, None, None
        if self.plan.band is not None:
            some = self.plan.band.alive(self.positions[0], self.span.real)
            if block.key_padding is not None:
                column = tf.where(tf.cast(block.key_padding, "bool"), 0.0, MASKED)
        elif not block.empty:
            allowed = block.materialize(self.plan.rows, self.keys)  # [1, 1 or k G, 1 or r, s]
            masked = tf.where(allowed, 0.0, MASKED)
            some = tf.cast(tf.reduce_any(allowed, -1, keepdims=True), "float32")
            if masked.shape[1] == masked.shape[2] == 1:
                masked, column = None, masked[:, 0, 0]
        if some is not None:
            alive = some if alive is None else alive * some
        return masked, column, None if alive is None else self.split_heads(alive)

    def _keep(self) -> Any:
        """Zero where a weight is dropped, else what scales the others up, `[k, G r, s]`."""
        step = self.span.index * self.plan.blocks + self.index
        seed = tf.random.experimental.stateless_fold_in(self.plan.seed, step)
        draw = tf.random.stateless_uniform(tf.shape(self.weights), seed)
        rate = self.plan.dropout
        return tf.cast(draw >= rate, "float32") / (1 - rate)

    def _cut(self, tensor: Any) -> Any:
        size = (self.plan.heads, self.keys, tensor.shape[-1])
        return tf.slice(tensor, (0, self.first_key, 0), size)

    def _rows(self, tensor: Any, factor: Any = 1.0) -> Any:
        """These rows `[k, G r, H]` of a tensor `[B, T, N, H]`, times a factor `[k, G, r, 1]`."""
        (head, heads), width = self.heads, tensor.shape[-1]
        begin, count = (self.span.batch, self.row, head, 0), (1, self.plan.rows, heads, width)
        rows = product_type(tf.slice(tensor, begin, count)[0])
        rows = tf.transpose(rows, (1, 0, 2))  # [k G, r, H]
        rows = self.by_head(rows) * tf.cast(factor, rows.dtype)
        return tf.reshape(rows, (self.plan.heads, -1, width))

    def _rows_first(self, tensor: Any) -> Any:
        """`[r, k G, H]` from `[k, G, r, H]`."""
        rows = tf.transpose(tensor, (2, 0, 1, 3))
        return tf.reshape(rows, (self.plan.rows, self.heads[1], tensor.shape[-1]))
