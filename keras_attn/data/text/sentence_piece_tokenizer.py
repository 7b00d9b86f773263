"""The tokenizer of a SentencePiece model, by tensorflow-text's own operation.

Letters: B batch, T tokens of a row (ragged), V vocabulary.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from typing import Any

from keras_attn._keras import register, resource
from keras_attn._typing import Config, Tensor
from keras_attn.data._tensorflow import tf, tf_text
from keras_attn.data.text.segments import token_ids
from keras_attn.data.text.subwords import SubwordTokenizer


@register()
class SentencePieceTokenizer(SubwordTokenizer):
    """A tokenizer by a SentencePiece model, with the ids of the package `sentencepiece`.

    All settings of the `.model` apply: unigram or BPE, normalization, the space before the text,
    user-defined symbols, byte fallback. If a unigram model finds two splits equally likely, such
    as ". ..." and "... .", the older version in tensorflow-text may choose the other one.

    It works eagerly, in `tf.data`, in a functional model with
    `keras.Input(shape=(), dtype="string")` (TensorFlow backend) and in a SavedModel. The model is
    part of the config. Invalid UTF-8 becomes U+FFFD. `read_tokenizer` makes one from a file.

    Args:
        model: content of the `.model`: bytes, or a string in base64, as in the config.
        special_tokens: the tokens whose ids are `cls_id`, `sep_id`, `pad_id`, `unk_id` and
            `mask_id`, by the keys "cls", "sep", "pad", "unk" and "mask"; defaults to their usual
            names.
        adds_cls: whether rows of the checkpoint begin with the token "cls". If so,
            `export.Generation` puts it before each prompt, otherwise only before an empty one.
        separators: the number of "sep" tokens between two texts of a row; 2 for RoBERTa.

    Call arguments:
        text: strings, `[B]`, or ragged of any depth.

    Returns:
        int32 ids, ragged `[B, (T)]`; one more ragged axis than `text`. No special token is added.

    Raises:
        ValueError: `model` is not a SentencePiece model, or a special token is not in the
            vocabulary; in a call, `text` has another shape.

    Example:
    >>> from pathlib import Path
    >>> model = Path("spiece.model").read_bytes()  # doctest: +SKIP
    >>> SentencePieceTokenizer(model)(["Hello"])  # doctest: +SKIP

    Source: Kudo and Richardson 2018; Kudo 2018, section 3.2.
    """

    def __init__(
        self,
        model: bytes | str,
        special_tokens: Mapping[str, str] | None = None,
        adds_cls: bool = False,
        separators: int = 1,
        **kwargs: Any,
    ):
        super().__init__(special_tokens, adds_cls, separators, **kwargs)
        self.model = base64.b64encode(model).decode() if isinstance(model, bytes) else model
        self._check_special_tokens()

    @functools.cached_property
    def _tokenizer(self) -> Any:
        # Not in the graph of the first call: later calls use the resource too.
        with tf.init_scope():
            try:
                tokenizer = tf_text.SentencepieceTokenizer(base64.b64decode(self.model))
            except (tf.errors.OpError, ValueError) as error:
                raise ValueError(
                    f"`model` must be the content of a SentencePiece model, got {error}"
                ) from error
        # An attribute of its own, so that TensorFlow tracks it into a SavedModel.
        self._resource = resource(tokenizer)
        return tokenizer

    @functools.cached_property
    def vocabulary(self) -> list[str]:
        """The tokens, in the order of their ids."""
        with tf.init_scope():
            tokens = self._tokenizer.id_to_string(tf.range(self._tokenizer.vocab_size()))
            return [token.decode() for token in tokens.numpy()]

    def detokenize(self, ids: Tensor) -> tf.Tensor:
        """Join rows of ids, `[B, T]` dense or ragged, to strings, `[B]`, as `sentencepiece` does.

        Only spaces at the beginning of a text are lost with a model that was trained with
        `remove_extra_whitespaces=False` and puts a space before the text: tensorflow-text has an
        older version of `sentencepiece`. The ids have these spaces.
        """
        return self._tokenizer.detokenize(token_ids(ids, len(self.vocabulary)))

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {**super().get_config(), "model": self.model}

    def _flat_ids(self, text: tf.Tensor) -> tf.RaggedTensor:
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        return self._tokenizer.tokenize(text)
