"""What BERT is pre-trained on: two runs of text in a row, some of their pieces hidden.

B batch, T pieces of a run (ragged), L row length.
"""

from __future__ import annotations

from typing import Any

from keras_attn.data._imports import tf
from keras_attn.data.masked_lm import TokenMasker
from keras_attn.data.packing import pack
from keras_attn.data.text.tokenizer import BertTokenizer


class PairExamples:
    """Masked-language-model and next-sentence examples of pairs of runs of text.

    Args:
        tokenizer: whose pieces they are.
        length: L, and the others as in `pretraining_dataset`.

    Call arguments:
        first, second: ragged int32 [B, (T)].
        is_random: int32 [B].
        numbers: int64 [B], the numbers of the examples; the masks depend on (seed, number).

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
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        row = pack([first, second], length=self.length, **self._specials)
        # Another seed than the pair's, or the place of A and B would tell what is masked.
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


def with_rows(batch: Any, rows: int | None) -> Any:
    """The nested tensors with `rows` as their static number of rows."""
    return tf.nest.map_structure(lambda x: tf.ensure_shape(x, [rows, *x.shape[1:]]), batch)
