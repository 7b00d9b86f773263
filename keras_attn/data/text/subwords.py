"""The base class of the tokenizers that are read from a checkpoint's files.

Letters: B batch, T tokens of a row (ragged), V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras

from keras_attn._checks import check_count
from keras_attn._keras import takes_strings
from keras_attn._typing import Config, Tensor
from keras_attn.data._tensorflow import strings, symbolic_ids, tf
from keras_attn.data.text.segments import token_ids

# The usual names of the token for each role; the first one in the vocabulary counts.
ROLES = {
    "cls": ("[CLS]", "<s>", "<|endoftext|>"),
    "sep": ("[SEP]", "</s>", "<|endoftext|>"),
    "pad": ("[PAD]", "<pad>", "<|endoftext|>"),
    "unk": ("[UNK]", "<unk>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
}


class SubwordTokenizer(keras.layers.Layer):
    """Base of the tokenizers that are read from a checkpoint's files.

    A tokenizer has `vocabulary`, the tokens in the order of their ids; `_flat_ids(text)`, the
    ragged ids of strings `[B]`; and `detokenize`.

    Args:
        special_tokens: the tokens whose ids are `cls_id`, `sep_id`, `pad_id`, `unk_id` and
            `mask_id`, by the keys "cls", "sep", "pad", "unk" and "mask"; defaults to their usual
            names.
        adds_cls: whether rows of the checkpoint begin with the token "cls".
        separators: the number of "sep" tokens between two texts of a row.
    """

    def __init__(
        self,
        special_tokens: Mapping[str, str] | None = None,
        adds_cls: bool = False,
        separators: int = 1,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        takes_strings(self)
        special_tokens = {} if special_tokens is None else special_tokens
        if not isinstance(special_tokens, dict) or not set(ROLES).issuperset(special_tokens):
            raise ValueError(
                f"`special_tokens` must be a dict with the keys {', '.join(ROLES)} or some of "
                f"them, got {', '.join(special_tokens)}"
            )
        self.special_tokens = dict(special_tokens)
        self.adds_cls = adds_cls
        self.separators = check_count("separators", separators)
        self.built = True

    @property
    def vocabulary(self) -> list[str]:
        """The tokens, in the order of their ids."""
        raise NotImplementedError

    @property
    def pad_id(self) -> int:
        """The id of the token that pads rows; for GPT-2, which has none, the end-of-text token."""
        return self._special_id("pad")

    @property
    def unk_id(self) -> int:
        """The id of the token for unknown text."""
        return self._special_id("unk")

    @property
    def cls_id(self) -> int:
        """The id of the token that begins a row."""
        return self._special_id("cls")

    @property
    def sep_id(self) -> int:
        """The id of the token that ends a text."""
        return self._special_id("sep")

    @property
    def mask_id(self) -> int:
        """The id of the token that masks another."""
        return self._special_id("mask")

    def call(self, text: Tensor) -> tf.RaggedTensor:
        """The ids of `text`."""
        text = strings("text", text)
        if isinstance(text, tf.RaggedTensor):
            return text.with_values(self.call(text.values))
        if text.shape.rank != 1:
            raise ValueError(f"`text` must have the shape [B], got {text.shape}")
        return self._flat_ids(text)

    def compute_output_spec(self, text: keras.KerasTensor) -> keras.KerasTensor:
        """The symbolic output."""
        return symbolic_ids(self, text)

    def tokens(self, ids: Tensor) -> tf.Tensor | tf.RaggedTensor:
        """The tokens as strings, as written in the vocabulary, in the shape of `ids`."""
        return tf.ragged.map_flat_values(
            lambda flat: tf.gather(tf.constant(self.vocabulary), flat),
            token_ids(ids, len(self.vocabulary)),
        )

    def get_config(self) -> Config:
        """The constructor arguments that all tokenizers have."""
        return {
            **super().get_config(),
            "special_tokens": dict(self.special_tokens),
            "adds_cls": self.adds_cls,
            "separators": self.separators,
        }

    def _flat_ids(self, text: tf.Tensor) -> tf.RaggedTensor:
        """The ids `[B, (T)]` of strings `[B]`."""
        raise NotImplementedError

    def _check_special_tokens(self) -> None:
        """Raise a ValueError for a special token that is not in the vocabulary."""
        missing = [token for token in self.special_tokens.values() if token not in self._ids]
        if missing:
            raise ValueError(f"`special_tokens` must be in the vocabulary, got {missing[0]!r}")

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.vocabulary)}

    def _special_id(self, role: str) -> int:
        named = self.special_tokens.get(role)
        names = ROLES[role] if named is None else (named,)
        for name in names:
            if name in self._ids:
                return self._ids[name]
        raise ValueError(
            f"`special_tokens` must name a token under {role!r}: the vocabulary has none of "
            f"{', '.join(names)}"
        )
