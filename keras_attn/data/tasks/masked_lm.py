"""The layers before and after a masked language model.

Letters: B batch, T tokens of the longest row, P masks in the row with the most masks, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from keras_attn._checks import is_integer
from keras_attn._keras import register
from keras_attn._typing import Config, Nested
from keras_attn.data._tensorflow import tf
from keras_attn.data.tasks.classification import BertPreprocessor
from keras_attn.data.tasks.layers import PostprocessorLayer
from keras_attn.data.text.tokenizer import BertTokenizer


@register()
class MaskedLMPreprocessor(BertPreprocessor):
    """BERT's rows, made of strings, with the positions of their masks.

    Args:
        tokenizer: a `BertTokenizer`, or the argument of one: a list of tokens or a vocab.txt.
        length: the maximum number of tokens in a row; longer texts are cut at the end, also masks.

    Call arguments:
        text: strings `[B]`, with "[MASK]" for each token to predict.

    Returns:
        A dict: `token_ids` int32, `segment_ids` int32, `padding_mask` bool, each `[B, T]`;
        `masked_positions` int32 `[B, P]`, ascending, then 0; `masked_weights` float32 `[B, P]`,
        1 at a mask, then 0.

    Raises:
        ValueError: `length` is too small for a token, or `BertTokenizer` refuses the vocabulary.

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> features = MaskedLMPreprocessor(vocabulary, length=8)(["Play [MASK] [MASK]", "[MASK]!"])
    >>> features["masked_positions"].numpy().tolist()
    [[2, 3], [1, 0]]

    Source: Devlin et al. 2019, section 3.1.
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


@register()
class MaskedLMPostprocessor(PostprocessorLayer):
    """The `top` most probable tokens of each mask with their probabilities, the best first.

    Args:
        tokenizer: a `BertTokenizer`, or the argument of one: a list of tokens or a vocab.txt.
        top: the number of tokens for each mask.

    Call arguments:
        outputs: logits `[B, P, V]`, or a dict with them under "masked_lm".
        features: what `MaskedLMPreprocessor` returned; "masked_weights" is read.

    Returns:
        A dict: `tokens` strings and `probabilities` float32, each `[B, P, top]`: "" and 0 where a
        row has fewer masks than P. `pieces`, the earlier name of `tokens`, holds the same for one
        more version, since clients of published models read it.

    Raises:
        ValueError: `top` is not between 1 and the size of the vocabulary.

    Example:
    >>> import numpy as np
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> logits = np.log([[[0.01, 0.01, 0.01, 0.01, 0.01, 0.2, 0.7, 0.05]]])
    >>> answer = MaskedLMPostprocessor(vocabulary, top=2)(logits, {"masked_weights": [[1.0]]})
    >>> answer["tokens"].numpy().tolist()
    [[[b'##ing', b'play']]]
    """

    def __init__(
        self,
        tokenizer: BertTokenizer | Sequence[str] | str | os.PathLike,
        top: int = 5,
        **kwargs: Any,
    ):
        super().__init__(tokenizer, **kwargs)
        size = len(self.tokenizer.vocabulary)
        if not is_integer(top) or not 1 <= top <= size:
            raise ValueError(f"`top` must be from 1 to the vocabulary's size {size}, got {top!r}")
        self.top = int(top)

    def call(self, outputs: Nested, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The best tokens at each mask."""
        logits = outputs["masked_lm"] if isinstance(outputs, dict) else outputs
        logits = tf.convert_to_tensor(logits)
        size = len(self.tokenizer.vocabulary)
        if logits.shape[-1] < size:
            raise ValueError(
                f"`outputs` must have a logit for each of {size} tokens, got {logits.shape[-1]}"
            )
        logits = logits[..., :size]  # a token matrix may have more rows than there are tokens
        best = tf.math.top_k(tf.nn.softmax(tf.cast(logits, tf.float32)), self.top)
        real = tf.convert_to_tensor(features["masked_weights"])[..., None] > 0  # [B, P, 1]
        tokens = tf.where(real, self.tokenizer.tokens(best.indices), "")
        return {
            "tokens": tokens,
            "pieces": tokens,
            "probabilities": tf.where(real, best.values, 0.0),
        }

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {**super().get_config(), "top": self.top}
