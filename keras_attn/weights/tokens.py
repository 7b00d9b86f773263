"""The tokenizer files of a checkpoint that is saved."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import keras

from keras_attn import data
from keras_attn._checks import check_flag
from keras_attn._typing import Config
from keras_attn.data.text.files import read_json
from keras_attn.data.text.subwords import SubwordTokenizer
from keras_attn.data.text.tokenizer_settings import check_word_piece
from keras_attn.data.text.vocabulary import check_vocabulary
from keras_attn.weights.checkpoint import write_json
from keras_attn.weights.formats import Format
from keras_attn.weights.loading import Loaded


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokenizer of a model: a vocabulary for BERT and DistilBERT, a layer for others.

    Args:
        vocabulary: the tokens in the order of their ids, for a vocab.txt.
        lowercase: whether text is lower-cased.
        tokenizer: a tokenizer for `data.write_tokenizer`.
    """

    vocabulary: Sequence[str] | None = None
    lowercase: bool | None = None
    tokenizer: keras.layers.Layer | None = None

    @classmethod
    def chosen(
        cls,
        loaded: Loaded | None,
        format: Format,
        vocabulary: Sequence[str] | str | os.PathLike | None,
        lowercase: bool | None,
        tokenizer: keras.layers.Layer | None,
    ) -> Tokens:
        """The given arguments, or else the tokenizer of the checkpoint that was loaded."""
        if isinstance(vocabulary, str | os.PathLike):
            vocabulary = data.read_vocabulary(vocabulary)
        elif vocabulary is not None:
            check_vocabulary(vocabulary)
            vocabulary = list(vocabulary)
        if lowercase is not None:
            lowercase = check_flag("lowercase", lowercase)
        if not isinstance(tokenizer, data.BertTokenizer | SubwordTokenizer | None):
            raise ValueError(f"`tokenizer` must be one of keras_attn.data, got {tokenizer!r}")
        given = vocabulary is not None or lowercase is not None
        if tokenizer is not None and given:
            raise ValueError("`vocabulary` and `lowercase` must be None if `tokenizer` is given")
        if isinstance(tokenizer, data.BertTokenizer):
            return cls(tokenizer.vocabulary, tokenizer.lowercase)
        if tokenizer is None and loaded and not given:
            try:
                tokenizer = loaded.tokenizer
            except ValueError:  # there is none, or it is not supported
                tokenizer = None
            if isinstance(tokenizer, data.BertTokenizer):  # below, from the vocabulary
                tokenizer = None
        if tokenizer is not None:
            return cls(tokenizer=tokenizer)
        if loaded and format.tokenizer and (given or _is_word_piece(loaded)):
            vocabulary = loaded.vocabulary if vocabulary is None else vocabulary
            lowercase = loaded.lowercase if lowercase is None else lowercase
        return cls(vocabulary, lowercase)

    def check(self, format: Format, rows: int) -> None:
        """Raise a ValueError if the format has no file for it, or for more tokens than rows."""
        given = self.vocabulary is not None or self.lowercase is not None
        if format.tokenizer is None and given:
            raise ValueError(
                f"`vocabulary` and `lowercase` must be None for {format.name}, and `tokenizer` no "
                f"BertTokenizer: its tokenizer has other files, got "
                f"{type(self.vocabulary).__name__} and {self.lowercase!r}"
            )
        name, tokens = "vocabulary", self.vocabulary
        if self.tokenizer is not None:
            name, tokens = "tokenizer", self.tokenizer.vocabulary
        if tokens is not None and len(tokens) > rows:
            raise ValueError(
                f"`{name}` must have at most as many tokens as the token matrix has rows, "
                f"{rows}, got {len(tokens)}"
            )

    def padding_id(self) -> int | None:
        """The id of the tokenizer's own token for padding.

        None if it has none, as GPT-2's, whose rows are padded with the token that ends a text:
        transformers would not find the end of a row by it.
        """
        if self.tokenizer is None:
            return None
        try:
            pad, end = self.tokenizer.pad_id, self.tokenizer.sep_id
        except ValueError:  # there is no such token at all
            return None
        return None if pad == end else pad

    def write(self, directory: Path, format: Format, segments: bool, kept: Config) -> None:
        """Write the files.

        Args:
            directory: an empty folder.
            format: that of the checkpoint.
            segments: whether the model has segment ids for two texts.
            kept: settings of tokenizer_config.json, where it is written.
        """
        if self.vocabulary is not None:
            text = "".join(f"{token}\n" for token in self.vocabulary)
            (directory / "vocab.txt").write_text(text, encoding="utf-8", newline="\n")
        if self.lowercase is not None:
            write_json(
                directory / "tokenizer_config.json",
                {"do_lower_case": self.lowercase, "tokenizer_class": format.tokenizer},
            )
        if self.tokenizer is not None:
            data.write_tokenizer(self.tokenizer, directory, segments=segments)
        file = directory / "tokenizer_config.json"
        if kept and file.exists():
            write_json(file, {**read_json(file), **kept})


def _is_word_piece(loaded: Loaded) -> bool:
    """Whether vocab.txt and lowercase are all that describes the tokenizer of a checkpoint."""
    try:
        if loaded.directory is not None:
            check_word_piece(loaded.directory, loaded.lowercase is not False)
    except ValueError:
        return False
    return True
