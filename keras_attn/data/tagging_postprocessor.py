"""The logits of a tagger to a label for each piece.

B batch, T pieces of the longest row, C tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_attn._register import register
from keras_attn.data._imports import tf
from keras_attn.data.classification_postprocessor import ClassificationPostprocessor


@register()
class TaggingPostprocessor(ClassificationPostprocessor):
    """The pieces of each row with their likeliest tags.

    Args:
        tokenizer: a `BertTokenizer`, or what makes one: a list of pieces or a vocab.txt.
        labels: the names of the tags, in the order of the logits.

    Call arguments:
        outputs: logits `[B, T, C]`.
        features: what the preprocessor returned.

    Returns:
        A dict: `pieces` strings `[B, T]`, `tags` strings `[B, T]`, both "" at padding;
        `probabilities` float32 `[B, T, C]`.

    Raises:
        ValueError: there is no label, or not one for each logit.

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> tagger = TaggingPostprocessor(vocabulary, ["word", "mark"])
    >>> features = {"token_ids": [[5, 7]], "padding_mask": [[True, True]]}
    >>> tagger([[[1.0, 0.0], [0.0, 1.0]]], features)["tags"].numpy().tolist()
    [[b'word', b'mark']]
    """

    def __init__(self, tokenizer: Any, labels: Sequence[str], **kwargs: Any):
        super().__init__(labels, tokenizer=tokenizer, **kwargs)

    def call(self, outputs: Any, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """A tag for each word."""
        answer = self._likeliest(tf.convert_to_tensor(outputs), "tags")
        real = tf.cast(features["padding_mask"], tf.bool)
        pieces = self.tokenizer.pieces(features["token_ids"])
        return {
            "pieces": tf.where(real, pieces, ""),
            "tags": tf.where(real, answer["tags"], ""),
            "probabilities": answer["probabilities"],
        }
