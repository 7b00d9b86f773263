"""Texts, pairs of texts and choices to the inputs of a classifier, its logits to a label.

B batch, C choices or classes, T tokens of the longest row in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_attn._keras import register
from keras_attn.data._tensorflow import as_many, strings, tf
from keras_attn.data.tasks.layers import PostprocessorLayer, PreprocessorLayer


@register()
class BertPreprocessor(PreprocessorLayer):
    """Strings to BERT's rows, each batch as wide as its longest row.

    Args:
        tokenizer: a `BertTokenizer`, or what makes one: a list of tokens or a vocab.txt.
        length: the most tokens in a row; longer texts lose their ends.

    Call arguments:
        text: strings `[B]`.

    Returns:
        A dict: `token_ids` int32, `segment_ids` int32 and `padding_mask` bool, each `[B, T]`.

    Raises:
        ValueError: a `length` too small for a token, a vocabulary that `BertTokenizer` refuses.

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> features = BertPreprocessor(vocabulary, length=8)(["Playing!", ""])
    >>> features["token_ids"].numpy().tolist()
    [[2, 5, 6, 7, 3], [2, 3, 0, 0, 0]]

    Reference: Devlin et al. 2018, "BERT", section 3, https://arxiv.org/abs/1810.04805
    """

    text_inputs = ("text",)

    def call(self, text: Any) -> dict[str, tf.Tensor]:
        """Rows of `text`."""
        return self._pack([self.tokenizer(text)])


@register()
class PairPreprocessor(PreprocessorLayer):
    """Pairs of strings to rows [CLS] first [SEP] second [SEP], the second in segment 1.

    RoBERTa's tokenizers put two [SEP] between them.

    Args:
        tokenizer: and `length`, as in `BertPreprocessor`; of a pair that is too long the longer
            string loses its end.

    Call arguments:
        first: strings `[B]`.
        second: strings `[B]`.

    Returns:
        A dict: `token_ids` int32, `segment_ids` int32 and `padding_mask` bool, each `[B, T]`.

    Raises:
        ValueError: a `length` too small for a token of each; not one `second` for each `first` (in
            a graph an InvalidArgumentError).

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
        first = strings("first", first)
        second = as_many("second", strings("second", second), "first", first)
        return self._pack([self.tokenizer(first), self.tokenizer(second)])


@register()
class ChoicePreprocessor(PreprocessorLayer):
    """A prompt with each of its choices to a row [CLS] prompt [SEP] choice [SEP].

    Args:
        tokenizer: and `length`, as in `BertPreprocessor`.

    Call arguments:
        prompt: strings `[B]`.
        choices: strings `[B, C]`, as many for each prompt.

    Returns:
        A dict: `token_ids` int32, `segment_ids` int32 and `padding_mask` bool, each `[B, C, T]`.

    Raises:
        ValueError: choices of unequal number; not one prompt for each row of choices (in a graph an
            InvalidArgumentError).

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
        prompts = as_many("prompt", strings("prompt", prompt), "choices", choices)
        prompts = tf.repeat(prompts, count)  # [B C]
        rows = self._pack([self.tokenizer(prompts), self.tokenizer(tf.reshape(choices, [-1]))])
        shape = [batch, choices.shape[1] or count, tf.shape(rows["token_ids"])[1]]
        return {name: tf.reshape(row, shape) for name, row in rows.items()}  # [B, C, T]

    def examples(self, tokens: int, batch: int) -> dict[str, list]:
        """Strings of about that many tokens in all, with two choices to each prompt."""
        strings = super().examples(tokens, batch)
        return {**strings, "choices": [[choice, choice] for choice in strings["choices"]]}


@register()
class ClassificationPostprocessor(PostprocessorLayer):
    """The likeliest label of each row, and the probabilities of all.

    It serves classifiers of texts and of pairs, and multiple choice, whose classes are the choices.

    Args:
        labels: the names of the classes, in the order of the logits.

    Call arguments:
        outputs: logits `[B, C]`.
        features: what the preprocessor returned.

    Returns:
        A dict: `label` strings `[B]`; `probabilities` float32 `[B, C]`.

    Raises:
        ValueError: `labels` is empty, or not one for each logit.

    Example:
    >>> answer = ClassificationPostprocessor(["no", "yes"])([[0.0, 1.0]], {})
    >>> answer["label"].numpy().tolist()
    [b'yes']
    """

    def __init__(self, labels: Sequence[str], **kwargs: Any):
        super().__init__(**kwargs)
        self.labels = check_labels(labels)

    def call(self, outputs: Any, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The labels and their probabilities."""
        return likeliest(tf.convert_to_tensor(outputs), self.labels, "label")

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments."""
        return {**super().get_config(), "labels": self.labels}


def likeliest(logits: tf.Tensor, labels: Sequence[str], name: str) -> dict[str, tf.Tensor]:
    """The likeliest label of each row, as `name`, and the probabilities of all."""
    if logits.shape[-1] != len(labels):
        raise ValueError(
            f"`labels` must name the {logits.shape[-1]} classes, got {len(labels)} names"
        )
    return {
        name: tf.gather(tf.constant(list(labels)), tf.argmax(logits, axis=-1)),
        "probabilities": tf.nn.softmax(tf.cast(logits, tf.float32)),
    }


def check_labels(labels: Sequence[str]) -> list[str]:
    """The labels as a list; a ValueError if there is none."""
    if not labels:
        raise ValueError("`labels` must hold a name for each class, got none")
    return list(labels)
