"""Pairs of raw strings to the inputs of a BERT.

B batch, T pieces of the longest row in the batch.
"""

from __future__ import annotations

from typing import Any

from keras_attn._register import register
from keras_attn.data._imports import tf
from keras_attn.data._require import strings
from keras_attn.data.bert_preprocessor import BertPreprocessor


@register()
class PairPreprocessor(BertPreprocessor):
    """Pairs of strings to rows [CLS] first [SEP] second [SEP], the second in segment 1.

    Args:
        tokenizer: and `length`, as in `BertPreprocessor`; of a pair that is too long the longer
            string loses its end.

    Call arguments:
        first: strings `[B]`.
        second: strings `[B]`.

    Returns:
        A dict: `token_ids` int32, `segment_ids` int32 and `padding_mask` bool, each `[B, T]`.

    Raises:
        ValueError: a `length` without room for a piece of each.

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> features = PairPreprocessor(vocabulary, length=8)(["Play"], ["!"])
    >>> features["token_ids"].numpy().tolist(), features["segment_ids"].numpy().tolist()
    ([[2, 5, 3, 7, 3]], [[0, 0, 0, 1, 1]])

    Reference: Devlin et al. 2018, "BERT", section 3, https://arxiv.org/abs/1810.04805
    """

    text_inputs = ("first", "second")

    def call(self, first: Any, second: Any) -> dict[str, tf.Tensor]:
        """Rows of the pairs."""
        return self._pack(
            [self.tokenizer(strings("first", first)), self.tokenizer(strings("second", second))]
        )
