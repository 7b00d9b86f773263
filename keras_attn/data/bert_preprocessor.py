"""Raw strings to the inputs of a BERT, as one layer, for a server.

B batch, T pieces of the longest row in the batch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_attn._register import register
from keras_attn.data._imports import tf
from keras_attn.data.packing import pack
from keras_attn.data.text.tokenizer import BertTokenizer
from keras_attn.data.text.vocabulary import SPECIAL_TOKENS, is_continuation


@register()
class BertPreprocessor(keras.layers.Layer):
    """Strings to BERT's rows, each batch as wide as its longest row.

    Args:
        tokenizer: a `BertTokenizer`, or what makes one: a list of pieces or a vocab.txt.
        length: the most pieces in a row; longer texts lose their ends.

    Call arguments:
        text: strings `[B]`.

    Returns:
        A dict: `token_ids` int32, `segment_ids` int32 and `padding_mask` bool, each `[B, T]`.

    Raises:
        ValueError: a `length` without room for a piece, a vocabulary that `BertTokenizer` refuses.

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> features = BertPreprocessor(vocabulary, length=8)(["Playing!", ""])
    >>> features["token_ids"].numpy().tolist()
    [[2, 5, 6, 7, 3], [2, 3, 0, 0, 0]]

    Reference: Devlin et al. 2018, "BERT", section 3, https://arxiv.org/abs/1810.04805
    """

    text_inputs = ("text",)  # the names of the strings, in the order of `call`

    def __init__(
        self,
        tokenizer: BertTokenizer | Sequence[str] | str | os.PathLike,
        length: int,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        # Strings must reach `call` as they are: no other backend has a tensor for them.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        least = 1 + 2 * len(self.text_inputs)
        if length < least:
            raise ValueError(f"`length` must be at least {least}, got {length}")
        if not isinstance(tokenizer, keras.layers.Layer):
            tokenizer = BertTokenizer(tokenizer)
        self.tokenizer = tokenizer
        self.length = length
        self.built = True

    def call(self, text: Any) -> dict[str, tf.Tensor]:
        """Rows of `text`."""
        return self._pack([self.tokenizer(text)])

    def from_tokens(self, token_ids: tf.Tensor, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        """The features of rows that the caller has tokenized, [CLS] and [SEP] included.

        What stands at and after `lengths` `[B]` does not count. In a graph, an id outside the
        vocabulary or a length that does not fit is an error of the request.
        """
        token_ids = tf.convert_to_tensor(token_ids, tf.int32)
        lengths = tf.convert_to_tensor(lengths, tf.int32)
        width = tf.shape(token_ids)[1]
        size = len(self.tokenizer.vocabulary)
        padding_mask = tf.sequence_mask(lengths, width)  # [B, T]
        token_ids = tf.where(padding_mask, token_ids, self.tokenizer.pad_id)
        with tf.control_dependencies(
            [
                tf.debugging.assert_non_negative(token_ids, "token_ids below 0"),
                tf.debugging.assert_less(token_ids, size, f"token_ids: vocabulary of {size}"),
                tf.debugging.assert_positive(lengths, "lengths must be at least 1"),
                tf.debugging.assert_less_equal(lengths, width, "lengths beyond token_ids"),
                tf.debugging.assert_less_equal(
                    lengths, self.length, f"lengths: the model takes {self.length} pieces"
                ),
            ]
        ):
            longest = tf.reduce_max(tf.pad(lengths, [[0, 1]]))
        token_ids, padding_mask = token_ids[:, :longest], padding_mask[:, :longest]
        separators = tf.cast(token_ids == self.tokenizer.sep_id, tf.int32)
        after_first = tf.minimum(tf.cumsum(separators, axis=1, exclusive=True), 1)
        return self._complete(
            {
                "token_ids": token_ids,
                "segment_ids": tf.where(padding_mask, after_first, 0),
                "padding_mask": padding_mask,
            }
        )

    def examples(self, pieces: int, batch: int) -> dict[str, list[str]]:
        """Strings of about that many pieces in all, to check and to warm up a server with."""
        vocabulary = self.tokenizer.vocabulary
        words = [
            piece
            for piece, inside in zip(vocabulary, is_continuation(vocabulary), strict=True)
            if not inside and piece not in SPECIAL_TOKENS
        ]
        count = max(1, (pieces - 1) // len(self.text_inputs) - 1)
        rng = np.random.default_rng(pieces)
        return {
            name: [
                " ".join([*rng.choice(words or ["[UNK]"], count - 1), "[MASK]"])
                for _ in range(batch)
            ]
            for name in self.text_inputs
        }

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "tokenizer": keras.saving.serialize_keras_object(self.tokenizer),
            "length": self.length,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BertPreprocessor:
        """The layer that `get_config` describes."""
        tokenizer = keras.saving.deserialize_keras_object(config["tokenizer"])
        return cls(**{**config, "tokenizer": tokenizer})

    def _pack(self, segments: Sequence[tf.RaggedTensor]) -> dict[str, tf.Tensor]:
        tokenizer = self.tokenizer
        features = pack(
            segments,
            length=self.length,
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
            pad_id=tokenizer.pad_id,
            pad_to_length=False,
        )
        return self._complete(features)

    def _complete(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds what a task needs besides; here nothing."""
        return features
