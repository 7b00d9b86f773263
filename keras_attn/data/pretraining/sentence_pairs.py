"""Next-sentence examples: two texts from documents; the second follows the first or does not.

Letters: B batch, D documents, T tokens of a text (ragged).
"""

from __future__ import annotations

import warnings

import numpy as np

from keras_attn.data._tensorflow import tf
from keras_attn.data.pretraining.masking import uniform


class SentencePairs:
    """Pairs of sentences; pair number i is a pure function of (seed, i).

    A pair belongs to a boundary between two paragraphs of a document. A is the sequence of whole
    paragraphs that ends there. B begins there and is cut where the row is full; in half of the
    pairs it begins at a boundary of another document instead. The boundaries are taken in a random
    permutation; when all have been used, a new one is drawn. A's fraction of the row is uniform
    between 1/4 and 3/4; if B's document ends early, A takes more.

    Documents of one paragraph have no boundary and give no pair. If the last paragraph before the
    boundary is longer than A may be, A is the end of it.

    Args:
        documents: ids, ragged [D, (paragraphs), (tokens)]; no paragraph is empty.
        length: the maximum number of tokens of A and B together, without special tokens.
        seed: an integer.
        room: the earlier name of `length`; deprecated.

    Call arguments:
        numbers: int64 `[B]`, the numbers of the pairs.

    Returns:
        A: ragged int32 `[B, (T)]`; B: ragged int32 `[B, (T)]`; is_random: int32 `[B]`, 0 where B
        follows A and 1 where it is from another document, the original BERT's labels.

    Raises:
        ValueError: fewer than two documents have two paragraphs, or `length` is below 4.

    Source: Devlin et al. 2019, section 3.1 and appendix A.2.
    """

    def __init__(
        self,
        documents: tf.RaggedTensor,
        length: int | None = None,
        seed: int = 0,
        room: int | None = None,
    ):
        if room is not None:
            warnings.warn("`room` is deprecated: use `length`", DeprecationWarning, stacklevel=2)
            length = room
        if length is None or length < 4:
            raise ValueError(f"`length` must be at least 4 tokens, got {length}")
        self.length = length
        self.seed = seed
        self._ids = tf.cast(documents.flat_values, tf.int32)
        paragraph_starts = documents.values.row_splits.numpy()
        of_document = documents.row_splits.numpy()
        paragraphs = np.diff(of_document)
        document = np.repeat(np.arange(len(paragraphs)), np.maximum(paragraphs - 1, 0))
        if len(np.unique(document)) < 2:
            raise ValueError(
                "`documents` must hold at least two documents of at least two paragraphs, "
                f"got {len(np.unique(document))} of them among {len(paragraphs)}"
            )
        inner = np.setdiff1d(np.arange(1, of_document[-1]), of_document)
        # Tables by boundary: positions in the flat ids, and the boundaries of the same document.
        self._paragraph_starts = tf.constant(paragraph_starts)
        self._border = tf.constant(paragraph_starts[inner])
        self._begin = tf.constant(paragraph_starts[of_document[document]])
        self._end = tf.constant(paragraph_starts[of_document[document + 1]])
        self._first_sibling = tf.constant(np.searchsorted(document, document, "left"))
        self._after_siblings = tf.constant(np.searchsorted(document, document, "right"))
        self._borders = len(inner)

    def __call__(self, numbers: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.Tensor]:
        numbers = tf.cast(numbers, tf.int64)
        seeds = tf.stack([tf.fill(tf.shape(numbers), tf.constant(self.seed, tf.int64)), numbers], 1)
        fraction, coin, other = tf.unstack(uniform(seeds, 3), num=3, axis=1)
        first = self._permuted(numbers)
        is_random = tf.cast(coin < 0.5, tf.int32)
        second = tf.where(is_random == 1, self._elsewhere(first, other), first)

        total = tf.constant(self.length, tf.int64)
        length_a = tf.cast((0.25 + 0.5 * fraction) * float(self.length), tf.int64)
        border_a, begin_a = tf.gather(self._border, first), tf.gather(self._begin, first)
        start_b = tf.gather(self._border, second)
        available_b = tf.gather(self._end, second) - start_b
        start_a = self._start(border_a, length_a, begin_a)
        length_b = tf.minimum(available_b, total - (border_a - start_a))
        start_a = tf.minimum(start_a, self._start(border_a, total - length_b, begin_a))
        a = tf.gather(self._ids, tf.ragged.range(start_a, border_a))
        b = tf.gather(self._ids, tf.ragged.range(start_b, start_b + length_b))
        return a, b, is_random

    def _permuted(self, numbers: tf.Tensor) -> tf.Tensor:
        """The boundary with number (i modulo boundaries) in the permutation of its pass."""
        passes = numbers // self._borders
        seed = tf.fill(tf.shape(passes), tf.constant(self.seed, tf.int64))
        # tf.random.experimental.index_shuffle pads a batch of seeds along the wrong axis too.
        return tf.raw_ops.RandomIndexShuffle(
            index=numbers % self._borders,
            seed=tf.stack([seed, passes, tf.zeros_like(passes)], axis=1),
            max_index=tf.constant(self._borders - 1, tf.int64),
        )

    def _elsewhere(self, border: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
        """A uniform boundary of another document; those of one document are consecutive."""
        first = tf.gather(self._first_sibling, border)
        own = tf.gather(self._after_siblings, border) - first
        others = tf.cast(self._borders - own, tf.float64)
        pick = tf.cast(tf.cast(draw, tf.float64) * others, tf.int64)
        return tf.where(pick < first, pick, pick + own)

    def _start(self, border: tf.Tensor, most: tf.Tensor, begin: tf.Tensor) -> tf.Tensor:
        """The start of the longest text before a boundary: whole paragraphs, or the end of one."""
        earliest = tf.maximum(begin, border - most)
        row = tf.searchsorted(self._paragraph_starts, earliest, side="left")
        start = tf.gather(self._paragraph_starts, row)
        return tf.where(start < border, start, earliest)
