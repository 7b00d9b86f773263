"""Streams of pre-training examples as tf.data.Datasets that can start at any example.

Letters: B batch, L row length, P maximum number of predictions in a row.
"""

from __future__ import annotations

from keras_attn._typing import Nested
from keras_attn.data._tensorflow import tf
from keras_attn.data.pretraining.masking import TokenMasker
from keras_attn.data.pretraining.sentence_pairs import SentencePairs
from keras_attn.data.text.segments import check_ids, pack
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

    Example number i is a pure function of (documents, seed, i): it does not depend on the batch
    size, the threads or the examples before it. To continue a run that stopped, use
    `start=steps_done * batch_size`. `SentencePairs` and `TokenMasker` say what an example is.

    Args:
        documents: ids from `tokenize_documents`, ragged [documents, (paragraphs), (tokens)].
        tokenizer: the tokenizer that made them.
        batch_size: B.
        length: L.
        seed: an integer. For held-out examples, use the same seed each time.
        start: the number of the first example.
        count: the number of examples; the last batch may be smaller. None for an endless stream
            of full batches. `rows_of(documents, length)` is about one pass over the text.
        max_predictions: P; defaults to `mask_rate` of a full row.
        mask_rate: the fraction of tokens to predict.
        whole_word: whether to mask all tokens of a word together.

    Returns:
        A dataset of (features, labels, sample weights), three dicts:
        features: `token_ids` int32 [B, L], `segment_ids` int32 [B, L], `padding_mask` bool
        [B, L], `masked_positions` int32 [B, P];
        labels: `masked_lm` int32 [B, P], the ids at the masked positions, in ascending order of
        position; `next_sentence` int32 [B], 0 where B follows A, 1 where it does not;
        sample weights: `masked_lm` float32 [B, P], 1 at a prediction and 0 at padding;
        `next_sentence` float32 [B], ones.

    Raises:
        ValueError: an id is outside the vocabulary, fewer than two documents have two paragraphs,
            or a number is out of range.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("length", length, 7),
        ("start", start, 0),
    ):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}")
    check_ids("documents", documents, len(tokenizer.vocabulary))
    pairs = SentencePairs(documents, length=length - 3, seed=seed)
    masked = PairExamples(tokenizer, length, seed, max_predictions, mask_rate, whole_word)
    rows = None if count else batch_size

    def batch_of(
        numbers: tf.Tensor,
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        return with_rows(masked(*pairs(numbers), numbers), rows)

    end = tf.int64.max if count is None else start + count
    numbers = tf.data.Dataset.range(start, end).batch(batch_size, drop_remainder=count is None)
    return numbers.map(batch_of, tf.data.AUTOTUNE, deterministic=True)


def rows_of(documents: tf.RaggedTensor, length: int) -> int:
    """How many rows of `length` the tokens of the documents fill."""
    return max(1, int(tf.size(documents.flat_values)) // (length - 3))


class PairExamples:
    """Masked-language-model and next-sentence examples from pairs of texts.

    Args:
        tokenizer: the tokenizer of the texts.
        length: L; this and the other arguments are as in `pretraining_dataset`.

    Call arguments:
        first, second: ragged int32 `[B, (T)]`.
        is_random: int32 `[B]`.
        numbers: int64 `[B]`, the numbers of the examples; the masks depend on (seed, number).

    Returns:
        features, labels and sample weights, as `pretraining_dataset` says.
    """

    def __init__(
        self,
        tokenizer: BertTokenizer,
        length: int,
        seed: int = 0,
        max_predictions: int | None = None,
        mask_rate: float = 0.15,
        whole_word: bool = False,
    ):
        if max_predictions is None:
            max_predictions = max(1, int(mask_rate * (length - 3) + 0.5))
        self.length, self.seed = length, seed
        self._masker = TokenMasker(tokenizer, max_predictions, mask_rate, whole_word)
        self._specials = {
            "cls_id": tokenizer.cls_id,
            "sep_id": tokenizer.sep_id,
            "pad_id": tokenizer.pad_id,
        }

    def __call__(
        self,
        first: tf.RaggedTensor,
        second: tf.RaggedTensor,
        is_random: tf.Tensor,
        numbers: tf.Tensor,
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        row = pack([first, second], length=self.length, **self._specials)
        # Another seed than the pair's: otherwise masks would depend on where A and B begin.
        seed = tf.fill(tf.shape(numbers), tf.constant(~self.seed, tf.int64))
        masked = self._masker(row["token_ids"], tf.stack([seed, numbers], 1))
        features = {
            "token_ids": masked["token_ids"],
            "segment_ids": row["segment_ids"],
            "padding_mask": row["padding_mask"],
            "masked_positions": masked["masked_positions"],
        }
        labels = {"masked_lm": masked["masked_ids"], "next_sentence": is_random}
        weights = {
            "masked_lm": masked["masked_weights"],
            "next_sentence": tf.ones_like(is_random, tf.float32),
        }
        return features, labels, weights


def with_rows(batch: Nested, rows: int | None) -> Nested:
    """The nested tensors with `rows` as their static number of rows."""
    return tf.nest.map_structure(lambda x: tf.ensure_shape(x, [rows, *x.shape[1:]]), batch)
