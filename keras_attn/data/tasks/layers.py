"""Base classes and protocols of preprocessors and postprocessors, the layers around a model.

Letters: B batch, T tokens of the longest row in the batch.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np

from keras_attn._checks import is_integer
from keras_attn._keras import takes_strings
from keras_attn._typing import Config, Nested, Tensor
from keras_attn.data._tensorflow import tf
from keras_attn.data.text.normalization import SPECIAL_TOKENS
from keras_attn.data.text.segments import pack
from keras_attn.data.text.tokenizer import BertTokenizer
from keras_attn.data.text.vocabulary import is_continuation


@runtime_checkable
class Preprocessor(Protocol):
    """What makes a model's inputs from strings; in a servable it is called before the model.

    With a method `from_tokens(token_ids, lengths)` it also serves clients that tokenize themselves.
    """

    text_inputs: Sequence[str]
    """The names of the arguments of a call, in their order."""
    length: int
    """The maximum number of tokens in a row."""

    def __call__(self, *texts: Tensor) -> Mapping[str, tf.Tensor]:
        """A dict that contains the model's inputs."""

    def examples(self, tokens: int, batch: int) -> dict[str, list]:
        """`batch` rows of example strings by argument, each of about `tokens` tokens in total.

        In a servable, an argument whose rows are lists gets the strings `[B, (W)]` of a request
        `[B, W]`, ragged, without the empty strings at the end of a row.
        """


@runtime_checkable
class Postprocessor(Protocol):
    """What makes answers from a model's outputs; in a servable it is called after the model."""

    def __call__(
        self, outputs: Nested, features: Mapping[str, tf.Tensor]
    ) -> Mapping[str, tf.Tensor]:
        """A dict of answers.

        `outputs` are the model's. `features` are what the preprocessor returned and, in signatures
        that take strings, also these strings `[B, ...]` by the names in `text_inputs` (a feature of
        the same name replaces them): `SpanPostprocessor` cuts its answers out of "context".
        A signature that takes token ids has no strings.
        """


def check_protocol(name: str, layer: object, protocol: type) -> None:
    """Raise a TypeError that names what `layer` lacks of `Preprocessor` or `Postprocessor`."""
    functions = [
        member
        for member, value in vars(protocol).items()
        if inspect.isfunction(value) and not member.startswith("_")
    ]
    missing = [
        member
        for member in (*inspect.get_annotations(protocol), *functions)
        if not hasattr(layer, member)
    ]
    if not callable(layer):
        missing.insert(0, "__call__")
    if missing:
        raise TypeError(
            f"`{name}` must follow the protocol keras_attn.data.{protocol.__name__}, got "
            f"{type(layer).__name__} without {', '.join(missing)}"
        )


class PreprocessorLayer(keras.layers.Layer):
    """Base of the layers that make BERT's rows; each batch is as wide as its longest row.

    Args:
        tokenizer: a `BertTokenizer`, or the argument of one: a list of tokens or a vocab.txt.
        length: the maximum number of tokens in a row.
    """

    text_inputs: tuple[str, ...] = ()

    def __init__(
        self,
        tokenizer: BertTokenizer | Sequence[str] | str | os.PathLike,
        length: int,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        takes_strings(self)
        if not isinstance(tokenizer, keras.layers.Layer):
            tokenizer = BertTokenizer(tokenizer)
        self.tokenizer = tokenizer
        texts = len(self.text_inputs)
        least = 2 + texts + tokenizer.separators * (texts - 1)  # a token of each text
        if not is_integer(length) or length < least:
            raise ValueError(f"`length` must be at least {least}, got {length!r}")
        self.length = int(length)
        self.built = True

    def from_tokens(self, token_ids: tf.Tensor, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        """The features of rows that are already tokenized and have [CLS] and [SEP].

        Only the first `lengths` `[B]` tokens of each row count. In a graph, an id outside the
        vocabulary or a length that is too small or too large makes the request fail.
        """
        token_ids = tf.convert_to_tensor(token_ids, tf.int32)
        lengths = tf.convert_to_tensor(lengths, tf.int32)
        # One column more, so that a batch without rows has a first position, as every other has.
        token_ids = tf.pad(token_ids, [[0, 0], [0, 1]])
        width = tf.shape(token_ids)[1]
        size = len(self.tokenizer.vocabulary)
        padding_mask = tf.sequence_mask(lengths, width)  # [B, T]
        token_ids = tf.where(padding_mask, token_ids, self.tokenizer.pad_id)
        with tf.control_dependencies(
            [
                tf.debugging.assert_non_negative(token_ids, "token_ids below 0"),
                tf.debugging.assert_less(token_ids, size, f"token_ids: vocabulary of {size}"),
                tf.debugging.assert_positive(lengths, "lengths must be at least 1"),
                tf.debugging.assert_less(lengths, width, "lengths beyond token_ids"),
                tf.debugging.assert_less_equal(
                    lengths, self.length, f"lengths: the model takes {self.length} tokens"
                ),
            ]
        ):
            longest = tf.reduce_max(tf.pad(lengths, [[0, 1]], constant_values=1))
        token_ids, padding_mask = token_ids[:, :longest], padding_mask[:, :longest]
        # Not at the first position: GPT-2 has one token for [CLS] and [SEP].
        ends = (token_ids == self.tokenizer.sep_id) & (tf.range(tf.shape(token_ids)[1]) > 0)
        passed = tf.cumsum(tf.cast(ends, tf.int32), axis=1, exclusive=True)
        after_first = tf.cast(passed >= self.tokenizer.separators, tf.int32)
        return self._complete(
            {
                "token_ids": token_ids,
                "segment_ids": tf.where(padding_mask, after_first, 0),
                "padding_mask": padding_mask,
            }
        )

    def examples(self, tokens: int, batch: int) -> dict[str, list[str]]:
        """Strings with about `tokens` tokens in total, for checks and for warming up a server."""
        vocabulary = self.tokenizer.vocabulary
        words = [
            token
            for token, inside in zip(vocabulary, is_continuation(vocabulary), strict=True)
            if not inside and token not in SPECIAL_TOKENS
        ]
        count = max(1, (tokens - 1) // len(self.text_inputs) - 1)
        rng = np.random.default_rng(tokens)
        return {
            name: [
                " ".join([*rng.choice(words or ["[UNK]"], count - 1), "[MASK]"])
                for _ in range(batch)
            ]
            for name in self.text_inputs
        }

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "tokenizer": keras.saving.serialize_keras_object(self.tokenizer),
            "length": self.length,
        }

    @classmethod
    def from_config(cls, config: Config) -> PreprocessorLayer:
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
            separators=tokenizer.separators,
            pad_to_length=False,
        )
        return self._complete(features)

    def _complete(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Add the features of a task; none in this base class."""
        return features


class PostprocessorLayer(keras.layers.Layer):
    """Base of the layers that make answers from a model's outputs.

    Args:
        tokenizer: a `BertTokenizer`, or the argument of one; None if answers have no tokens.
    """

    def __init__(self, tokenizer: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        takes_strings(self)
        self.supports_masking = True
        if tokenizer is not None and not isinstance(tokenizer, keras.layers.Layer):
            tokenizer = BertTokenizer(tokenizer)
        self.tokenizer: Any = tokenizer
        self.built = True

    # pyrefly: ignore[bad-override]
    def call(self, outputs: Nested, features: dict) -> dict:
        """The answers of a batch."""
        raise NotImplementedError

    def compute_mask(self, *_: Any, **__: Any) -> None:
        """None: answers have no mask."""

    def get_config(self) -> Config:
        """All constructor arguments."""
        config = super().get_config()
        if self.tokenizer is not None:
            config["tokenizer"] = keras.saving.serialize_keras_object(self.tokenizer)
        return config

    @classmethod
    def from_config(cls, config: Config) -> PostprocessorLayer:
        """The layer that `get_config` describes."""
        if "tokenizer" in config:
            tokenizer = keras.saving.deserialize_keras_object(config["tokenizer"])
            config = {**config, "tokenizer": tokenizer}
        return cls(**config)
