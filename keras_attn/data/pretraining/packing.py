"""Packs several short sequences into one row, so that a batch has less padding.

Letters: N sequences of an incoming batch, T tokens of the longest of them, B batch of rows, L row
length, S sequences in a row.
"""

from __future__ import annotations

from keras_attn._typing import Nested, Tensor
from keras_attn.data._tensorflow import tf


def pack_rows(
    dataset: tf.data.Dataset,
    *,
    length: int,
    batch_size: int,
    max_sequences: int = 16,
    pad_id: int = 0,
) -> tf.data.Dataset:
    """Pack the sequences of padded batches into rows, for `models.packing.packed`.

    Only sequences of the same incoming batch are packed together: the longest first, each into the
    first row with enough space. With some hundreds of sequences in a batch the rows are nearly
    full.

    Args:
        dataset: batches of (features, labels) or (features, labels, weights). Features: a dict with
            `padding_mask` bool `[N, T]` and others `[N, T]`, such as `token_ids` and `segment_ids`.
            Labels and weights: a tensor or nested tensors, each `[N]` or `[N, 1]`, one value for a
            sequence, or `[N, T]`, one for each of its tokens. A regressor needs labels `[N, 1]`: as
            its outputs they have an axis at the end, over which its loss takes the mean.
        length: L, the number of tokens in a row.
        batch_size: B.
        max_sequences: R, the maximum number of sequences in a row.
        pad_id: the value of `token_ids` at padding; other features are 0 there.

    Returns:
        A dataset of (features, labels, weights); the last batch may be smaller.
        features: those of `dataset` `[B, L]`, and `sequence_ids` int32 `[B, L]`, 1, 2, ... and 0 at
        padding; `positions` int32 `[B, L]`, from 0 in each sequence; `first_positions` int32
        `[B, R]`, where the sequences begin, then 0;
        labels: `[B, R]` or `[B, R, 1]` for sequences, or `[B, L]` for tokens, 0 at padding;
        weights: float32, in the shape of the labels: the given weights, or 1; 0 at padding.

    Raises:
        ValueError: a number is not positive, the features have no `padding_mask`, or a tensor has
            another shape.
        tf.errors.InvalidArgumentError: when the dataset runs, a sequence is longer than a row.

    Example:
    >>> features = {
    ...     "token_ids": [[2, 5, 6, 3], [2, 7, 3, 0], [2, 8, 3, 0]],
    ...     "padding_mask": [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]]}
    >>> rows = tf.data.Dataset.from_tensors((features, [10, 11, 12]))
    >>> rows = pack_rows(rows, length=7, batch_size=2, max_sequences=2)
    >>> features, labels, weights = next(iter(rows))
    >>> features["token_ids"].numpy().tolist()
    [[2, 5, 6, 3, 2, 7, 3], [2, 8, 3, 0, 0, 0, 0]]
    >>> labels.numpy().tolist(), weights.numpy().tolist()
    ([[10, 11], [12, 0]], [[1.0, 1.0], [1.0, 0.0]])

    Source: Krell et al. 2021, section 3.1.
    """
    for name, value in (
        ("length", length),
        ("batch_size", batch_size),
        ("max_sequences", max_sequences),
    ):
        if value < 1:
            raise ValueError(f"`{name}` must be positive, got {value}")

    def pack(
        features: dict, labels: Tensor, weights: Nested | None = None
    ) -> tuple[dict, Nested, Nested]:
        if "padding_mask" not in features:
            raise ValueError(
                f"`dataset` must have a feature padding_mask, got {', '.join(sorted(features))}"
            )
        rows = _Rows(features["padding_mask"], length, max_sequences)
        packed = {
            name: rows.join(values, pad_id if name == "token_ids" else 0)
            for name, values in features.items()
            if name != "padding_mask"
        }
        if weights is None:
            weights = tf.nest.map_structure(lambda x: tf.ones_like(x, tf.float32), labels)
        weights = tf.nest.map_structure(lambda x: tf.cast(x, tf.float32), weights)
        return (
            packed | rows.structure(),
            tf.nest.map_structure(rows.join, labels),
            tf.nest.map_structure(rows.join, weights),
        )

    rows = dataset.map(pack, tf.data.AUTOTUNE, deterministic=True)
    return rows.rebatch(batch_size)


class _Rows:
    """Which of the N sequences are in the same row."""

    def __init__(self, padding_mask: tf.Tensor, length: int, max_sequences: int):
        self.length, self.max_sequences = length, max_sequences
        self.mask = tf.cast(padding_mask, tf.bool)
        if self.mask.shape.rank != 2:
            raise ValueError(f"`padding_mask` must have the shape [N, T], got {self.mask.shape}")
        sizes = tf.reduce_sum(tf.cast(self.mask, tf.int64), axis=1)  # [N]
        message = f"`length` must be at least that of the longest sequence, got {length}"
        space = tf.constant([length, max_sequences], tf.int64)
        with tf.control_dependencies([tf.debugging.assert_less_equal(sizes, space[0], message)]):
            self.order, self.counts = _first_fit(sizes, space)
        self.sizes = tf.gather(sizes, self.order)  # [N], row by row

    def join(self, values: tf.Tensor, default: int = 0) -> tf.Tensor:
        """Pack values of sequences, `[N]` to `[rows, R]`, or of tokens, `[N, T]` to `[rows, L]`.

        Values `[N, 1]` become `[rows, R, 1]`.
        """
        if values.shape.rank == 1:
            return self._sequences(tf.gather(values, self.order), default)
        if values.shape.rank == 2 and values.shape[1] == 1 != self.mask.shape[1]:
            return self.join(values[:, 0], default)[..., None]
        if not values.shape[:2].is_compatible_with(self.mask.shape):
            raise ValueError(
                f"`dataset` must have features {self.mask.shape}, as `padding_mask`, and labels "
                f"and weights of that shape or [N], got {values.shape}"
            )
        return self._tokens(
            tf.gather(tf.ragged.boolean_mask(values, self.mask), self.order), default
        )

    def structure(self) -> dict[str, tf.Tensor]:
        """The features that distinguish the sequences of a row."""
        numbers = tf.ragged.range(1, self.counts + 1).flat_values  # [N], 1, 2, ... in each row
        numbers = tf.RaggedTensor.from_row_lengths(
            tf.repeat(numbers, self.sizes), self.sizes, validate=False
        )
        first = tf.cumsum(self._sequences(self.sizes), axis=1, exclusive=True)
        real = tf.sequence_mask(self.counts, self.max_sequences)
        return {
            "padding_mask": self._tokens(tf.ones_like(numbers, tf.bool), False),
            "sequence_ids": tf.cast(self._tokens(numbers), tf.int32),
            "positions": tf.cast(self._tokens(tf.ragged.range(self.sizes)), tf.int32),
            "first_positions": tf.cast(tf.where(real, first, 0), tf.int32),
        }

    def _sequences(self, values: tf.Tensor, default: int = 0) -> tf.Tensor:
        # [rows, (sequences)]
        rows = tf.RaggedTensor.from_row_lengths(values, self.counts, validate=False)
        return rows.to_tensor(tf.cast(default, rows.dtype), shape=[None, self.max_sequences])

    def _tokens(self, values: tf.RaggedTensor, default: int = 0) -> tf.Tensor:
        rows = tf.RaggedTensor.from_row_lengths(values, self.counts, validate=False)
        rows = rows.merge_dims(1, 2)
        return rows.to_tensor(tf.cast(default, rows.dtype), shape=[None, self.length])


def _first_fit(sizes: tf.Tensor, space: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The sequences in the order of their rows, int64 `[N]`, and the number in each row, `[rows]`.

    Args:
        sizes: int64 `[N]`.
        space: int64 [2], the maximum number of tokens and of sequences in a row.
    """
    descending = tf.argsort(sizes, direction="DESCENDING", stable=True)
    needs = tf.gather(tf.stack([sizes, tf.ones_like(sizes)], axis=1), descending)  # [N, 2]
    count = tf.size(sizes)

    def put(index: tf.Tensor, left: tf.Tensor, chosen: tf.TensorArray) -> tuple:
        row = tf.argmax(tf.reduce_all(left >= needs[index], axis=1))
        left = tf.tensor_scatter_nd_sub(left, [[row]], needs[index : index + 1])
        return index + 1, left, chosen.write(index, row)

    _, _, chosen = tf.while_loop(
        lambda index, *_: index < count,
        put,
        (0, tf.tile(space[None], [count, 1]), tf.TensorArray(tf.int64, count)),
    )
    rows = chosen.stack()  # [N]
    counts = tf.math.bincount(tf.cast(rows, tf.int32), dtype=tf.int64)
    return tf.gather(descending, tf.argsort(rows, stable=True)), counts
