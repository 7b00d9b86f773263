"""A prompt and several choices to the inputs of a multiple-choice BERT.

B batch, C choices, T pieces of the longest row in the batch.
"""

from __future__ import annotations

from typing import Any

from keras_attn._register import register
from keras_attn.data._imports import tf
from keras_attn.data._require import strings
from keras_attn.data.pair_preprocessor import PairPreprocessor


@register()
class ChoicePreprocessor(PairPreprocessor):
    """A prompt with each of its choices to a row [CLS] prompt [SEP] choice [SEP].

    Args:
        tokenizer: and `length`, as in `BertPreprocessor`.

    Call arguments:
        prompt: strings `[B]`.
        choices: strings `[B, C]`, as many for each prompt.

    Returns:
        A dict: `token_ids` int32, `segment_ids` int32 and `padding_mask` bool, each `[B, C, T]`.

    Raises:
        ValueError: choices of unequal number.

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> features = ChoicePreprocessor(vocabulary, length=8)(["Play"], [["!", "playing"]])
    >>> features["token_ids"].numpy().tolist()
    [[[2, 5, 3, 7, 3, 0], [2, 5, 3, 5, 6, 3]]]

    Reference: Devlin et al. 2018, "BERT", section 4.4, https://arxiv.org/abs/1810.04805
    """

    text_inputs = ("prompt", "choices")

    def call(self, prompt: Any, choices: Any) -> dict[str, tf.Tensor]:
        """Rows of each choice."""
        choices = strings("choices", choices, "[B, C]")
        if choices.shape.rank != 2:
            raise ValueError(f"`choices` must have the shape [B, C], got {choices.shape}")
        batch, count = tf.unstack(tf.shape(choices))
        prompts = tf.repeat(strings("prompt", prompt), count)  # [B C]
        rows = super().call(prompts, tf.reshape(choices, [-1]))
        shape = [batch, choices.shape[1] or count, tf.shape(rows["token_ids"])[1]]
        return {name: tf.reshape(row, shape) for name, row in rows.items()}  # [B, C, T]

    def examples(self, pieces: int, batch: int) -> dict[str, list]:
        """Strings of about that many pieces in all, with two choices to each prompt."""
        strings = super().examples(pieces, batch)
        return {**strings, "choices": [[choice, choice] for choice in strings["choices"]]}
