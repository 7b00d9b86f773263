"""The layers before and after a classifier of texts, of pairs of texts, or of choices.

Letters: B batch, C choices or classes, T tokens of the longest row in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_attn._keras import register
from keras_attn._typing import Config, Nested, Tensor
from keras_attn.data._tensorflow import same_rows, strings, tf
from keras_attn.data.tasks.layers import PostprocessorLayer, PreprocessorLayer


@register()
class BertPreprocessor(PreprocessorLayer):
    """BERT's rows, made of strings; each batch is as wide as its longest row.

    Args:
        tokenizer: a `BertTokenizer`, or the argument of one: a list of tokens or a vocab.txt.
        length: the maximum number of tokens in a row; longer texts are cut at the end.

    Call arguments:
        text: strings `[B]`.

    Returns:
        A dict: `token_ids` int32, `segment_ids` int32 and `padding_mask` bool, each `[B, T]`.

    Raises:
        ValueError: `length` is too small for a token, or `BertTokenizer` refuses the vocabulary.

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> features = BertPreprocessor(vocabulary, length=8)(["Playing!", ""])
    >>> features["token_ids"].numpy().tolist()
    [[2, 5, 6, 7, 3], [2, 3, 0, 0, 0]]

    Source: Devlin et al. 2019, section 3.
    """

    text_inputs = ("text",)

    # pyrefly: ignore[bad-override]
    def call(self, text: Tensor) -> dict[str, tf.Tensor]:
        """The rows of `text`."""
        return self._pack([self.tokenizer(text)])


@register()
class PairPreprocessor(PreprocessorLayer):
    """Rows [CLS] first [SEP] second [SEP] of pairs of strings; the second has segment id 1.

    RoBERTa's tokenizers put two [SEP] between them.

    Args:
        tokenizer: as in `BertPreprocessor`.
        length: the maximum number of tokens in a row. If a pair is too long, the longer string is
            cut at the end.

    Call arguments:
        first: strings `[B]`.
        second: strings `[B]`.

    Returns:
        A dict: `token_ids` int32, `segment_ids` int32 and `padding_mask` bool, each `[B, T]`.

    Raises:
        ValueError: `length` is too small for a token of each; there is not one `second` for each
            `first` (in a graph an InvalidArgumentError).

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> features = PairPreprocessor(vocabulary, length=8)(["Play"], ["!"])
    >>> features["token_ids"].numpy().tolist(), features["segment_ids"].numpy().tolist()
    ([[2, 5, 3, 7, 3]], [[0, 0, 0, 1, 1]])

    Source: Devlin et al. 2019, section 3.
    """

    text_inputs = ("first", "second")

    # pyrefly: ignore[bad-override]
    def call(self, first: Tensor, second: Tensor) -> dict[str, tf.Tensor]:
        """The rows of the pairs."""
        first = strings("first", first)
        second = same_rows("second", strings("second", second), "first", first)
        return self._pack([self.tokenizer(first), self.tokenizer(second)])


@register()
class ChoicePreprocessor(PreprocessorLayer):
    """A row [CLS] prompt [SEP] choice [SEP] for each choice.

    Args:
        tokenizer: as in `BertPreprocessor`.
        length: as in `PairPreprocessor`.

    Call arguments:
        prompt: strings `[B]`.
        choices: strings `[B, C]`, the same number for each prompt.

    Returns:
        A dict: `token_ids` int32, `segment_ids` int32 and `padding_mask` bool, each `[B, C, T]`.

    Raises:
        ValueError: the prompts have different numbers of choices; there is not one prompt for each
            row of choices (in a graph an InvalidArgumentError).

    Example:
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "!"]
    >>> features = ChoicePreprocessor(vocabulary, length=8)(["Play"], [["!", "playing"]])
    >>> features["token_ids"].numpy().tolist()
    [[[2, 5, 3, 7, 3, 0], [2, 5, 3, 5, 6, 3]]]

    Source: Devlin et al. 2019, section 4.4.
    """

    text_inputs = ("prompt", "choices")

    # pyrefly: ignore[bad-override]
    def call(self, prompt: Tensor, choices: Tensor) -> dict[str, tf.Tensor]:
        """The rows of the choices."""
        choices = strings("choices", choices, "[B, C]")
        if choices.shape.rank != 2:
            raise ValueError(f"`choices` must have the shape [B, C], got {choices.shape}")
        batch, count = tf.unstack(tf.shape(choices))
        prompts = same_rows("prompt", strings("prompt", prompt), "choices", choices)
        prompts = tf.repeat(prompts, count)  # [B C]
        rows = self._pack([self.tokenizer(prompts), self.tokenizer(tf.reshape(choices, [-1]))])
        shape = [batch, choices.shape[1] or count, tf.shape(rows["token_ids"])[1]]
        return {name: tf.reshape(row, shape) for name, row in rows.items()}  # [B, C, T]

    def examples(self, tokens: int, batch: int) -> dict[str, list]:
        """Strings with about `tokens` tokens in total, with two choices for each prompt."""
        strings = super().examples(tokens, batch)
        return {**strings, "choices": [[choice, choice] for choice in strings["choices"]]}


@register()
class ClassificationPostprocessor(PostprocessorLayer):
    """The most probable label of each row, and the probabilities of all labels.

    For classifiers of texts and of pairs, and for multiple choice, where the choices are the
    classes.

    Args:
        labels: the names of the classes, in the order of the logits.

    Call arguments:
        outputs: logits `[B, C]`.
        features: what the preprocessor returned; nothing of it is read.

    Returns:
        A dict: `label` strings `[B]`; `probabilities` float32 `[B, C]`.

    Raises:
        ValueError: `labels` is empty, or its length is not the number of logits.

    Example:
    >>> answer = ClassificationPostprocessor(["no", "yes"])([[0.0, 1.0]], {})
    >>> answer["label"].numpy().tolist()
    [b'yes']
    """

    def __init__(self, labels: Sequence[str], **kwargs: Any):
        super().__init__(**kwargs)
        self.labels = check_labels(labels)

    def call(self, outputs: Nested, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The labels and their probabilities."""
        return most_probable(tf.convert_to_tensor(outputs), self.labels, "label")

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {**super().get_config(), "labels": self.labels}


def most_probable(logits: tf.Tensor, labels: Sequence[str], name: str) -> dict[str, tf.Tensor]:
    """The most probable label of each row, with the key `name`, and the probabilities of all."""
    if logits.shape[-1] != len(labels):
        raise ValueError(
            f"`labels` must name the {logits.shape[-1]} classes, got {len(labels)} names"
        )
    return {
        name: tf.gather(tf.constant(list(labels)), tf.argmax(logits, axis=-1)),
        "probabilities": tf.nn.softmax(tf.cast(logits, tf.float32)),
    }


def check_labels(labels: Sequence[str]) -> list[str]:
    """The labels as a list; raises a ValueError if there is none."""
    if not labels:
        raise ValueError("`labels` must hold a name for each class, got none")
    return list(labels)
