"""Raw strings with [MASK] to the inputs of a masked language model.

B batch, T pieces of the longest row, P masks of the row that has the most.
"""

from __future__ import annotations

from keras_attn._register import register
from keras_attn.data._imports import tf
from keras_attn.data.bert_preprocessor import BertPreprocessor


@register()
class MaskedLMPreprocessor(BertPreprocessor):
    """Strings to BERT's rows and the places of their masks.

    Args:
        tokenizer: a `BertTokenizer`, or what makes one: a list of pieces or a vocab.txt.
        length: the most pieces in a row; longer texts lose their ends, and masks there.

    Call arguments:
        text: strings `[B]`, in which "[MASK]" stands for a piece to find.

    Returns:
        A dict: `token_ids` int32, `segment_ids` int32, `padding_mask` bool, each `[B, T]`;
        `masked_positions` int32 `[B, P]`, ascending, then 0; `masked_weights` float32 `[B, P]`,
        1 at a mask, then 0.

    Raises:
        ValueError: a `length` without room for a piece, a vocabulary that `BertTokenizer` refuses.

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> features = MaskedLMPreprocessor(vocabulary, length=8)(["Play [MASK] [MASK]", "[MASK]!"])
    >>> features["masked_positions"].numpy().tolist()
    [[2, 3], [1, 0]]

    Reference: Devlin et al. 2018, "BERT", section 3.1, https://arxiv.org/abs/1810.04805
    """

    def _complete(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        is_mask = features["token_ids"] == self.tokenizer.mask_id  # [B, T]
        positions = tf.broadcast_to(tf.range(tf.shape(is_mask)[1]), tf.shape(is_mask))
        positions = tf.ragged.boolean_mask(positions, is_mask)  # [B, (P)]
        weights = tf.ones_like(positions, tf.float32)
        return {
            **features,
            "masked_positions": positions.to_tensor(0),
            "masked_weights": weights.to_tensor(0.0),
        }
