"""Streams of training examples as tf.data.Datasets that can be entered anywhere.

B batch, L row length, P most predictions in a row.
"""

from __future__ import annotations

from typing import Any

from keras_attn.data._imports import tf
from keras_attn.data.packing import check_ids
from keras_attn.data.pair_examples import PairExamples, with_rows
from keras_attn.data.sentence_pairs import SentencePairs
from keras_attn.data.text.tokenizer import BertTokenizer


def pretraining_dataset(
    documents: tf.RaggedTensor,
    tokenizer: BertTokenizer,
    *,
    batch_size: int,
    length: int,
    seed: int = 0,
    start: int = 0,
    count: int | None = None,
    max_predictions: int | None = None,
    mask_rate: float = 0.15,
    whole_word: bool = False,
) -> tf.data.Dataset:
    """Masked-language-model and next-sentence examples for BERT, batched.

    Example number i is a pure function of (documents, seed, i), whatever the batch size, the
    threads and the examples before it: `start=steps_done * batch_size` goes on where a run
    stopped, at once. See `SentencePairs` and `TokenMasker` for what an example is.

    Args:
        documents: ids from `tokenize_documents`, ragged [documents, (paragraphs), (pieces)].
        tokenizer: the tokenizer that made them.
        batch_size: B.
        length: L.
        seed: an integer. Draw the held-out examples with one fixed seed.
        start: the number of the first example.
        count: how many examples, the last batch possibly smaller; None for an endless stream
            of full batches. `rows_of(documents, length)` is about one pass over the text.
        max_predictions: P; None for `mask_rate` of a full row.
        mask_rate: the share of pieces to predict.
        whole_word: whether to mask all pieces of a word together.

    Returns:
        A dataset of (features, labels, sample weights), three dicts:
        features: `token_ids` int32 [B, L], `segment_ids` int32 [B, L], `padding_mask` bool
        [B, L], `masked_positions` int32 [B, P];
        labels: `masked_lm` int32 [B, P], the ids at the masked positions, in ascending order of
        position; `next_sentence` int32 [B], 0 where B follows A, 1 where it does not;
        sample weights: `masked_lm` float32 [B, P], 1 at a prediction and 0 at the filling;
        `next_sentence` float32 [B], ones.

    Raises:
        ValueError: if an id is beyond the vocabulary, fewer than two documents have two
            paragraphs, or a number is out of range.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("length", length, 7),
        ("start", start, 0),
    ):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}")
    check_ids(documents, len(tokenizer.vocabulary), "documents")
    pairs = SentencePairs(documents, room=length - 3, seed=seed)
    masked = PairExamples(tokenizer, length, seed, max_predictions, mask_rate, whole_word)
    rows = None if count else batch_size

    def batch_of(numbers: tf.Tensor) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return with_rows(masked(*pairs(numbers), numbers), rows)

    end = tf.int64.max if count is None else start + count
    numbers = tf.data.Dataset.range(start, end).batch(batch_size, drop_remainder=count is None)
    return numbers.map(batch_of, tf.data.AUTOTUNE, deterministic=True)


def rows_of(documents: tf.RaggedTensor, length: int) -> int:
    """How many rows of `length` the pieces of the documents fill."""
    return max(1, int(tf.size(documents.flat_values)) // (length - 3))
