"""The tokenizer of a tokenizer.json with a Unigram model, in the graph.

Letters: B batch, Sp spans of text (flat), W words (flat), T tokens of a row (ragged), V vocabulary.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from keras_attn._keras import register
from keras_attn._typing import Config, Tensor
from keras_attn.data._tensorflow import tf, tf_text
from keras_attn.data.text.segments import token_ids
from keras_attn.data.text.spans import (
    SPACES,
    AddedTokens,
    Spans,
    check_added,
    replaced_by,
    with_ids,
)
from keras_attn.data.text.subwords import SubwordTokenizer
from keras_attn.data.text.unicode_maps import Normalizer, normalizers
from keras_attn.data.text.unigrams import Unigrams

_SPACE = "▁"  # represents a space in a vocabulary
_WORD = f"{_SPACE}[^{_SPACE}]*|[^{_SPACE}]+"
_SCHEMES = ("always", "first", "never")
# The decoder of a vocabulary with byte fallback.
_BYTE_DECODERS = [
    {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
]


@register()
class UnigramTokenizer(SubwordTokenizer):
    """A tokenizer by a unigram model, with the ids of the package `tokenizers`.

    Added tokens are found first. The text between them is normalized and split at spaces. Each word
    is split into the tokens whose probabilities have the greatest product. XLM-RoBERTa, ALBERT, T5
    and similar models have such files. For a `.model` of SentencePiece there is
    `SentencePieceTokenizer`.

    It works eagerly, in `tf.data`, in a functional model with
    `keras.Input(shape=(), dtype="string")` (TensorFlow backend) and in a SavedModel. The file is
    part of the config. Invalid UTF-8 becomes U+FFFD. `read_tokenizer` makes one from a file.

    Args:
        file: the content of tokenizer.json, as an object or as a string, as in the config. Its
            `post_processor`, `truncation` and `padding` are not applied: `data.pack` does this.
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
        ValueError: the file needs what is not supported, or a special token is not in the
            vocabulary; in a call, `text` has another shape.

    Example:
    >>> vocabulary = [["<unk>", 0.0], ["▁", -3.0], ["▁a", -2.0], ["a", -3.0], ["ab", -4.0]]
    >>> space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
    >>> model = {"type": "Unigram", "unk_id": 0, "vocab": vocabulary}
    >>> file = {"model": model, "pre_tokenizer": space, "decoder": space}
    >>> tokenizer = UnigramTokenizer(file)
    >>> ids = tokenizer(["a ab aaz"])
    >>> ids.to_list()
    [[2, 1, 4, 2, 3, 0]]
    >>> tokenizer.detokenize(ids).numpy()[0].decode()
    'a ab aa<unk>'

    Source: Kudo 2018, section 3.2.
    """

    def __init__(
        self,
        file: Config | str,
        special_tokens: Mapping[str, str] | None = None,
        adds_cls: bool = False,
        separators: int = 1,
        **kwargs: Any,
    ):
        super().__init__(special_tokens, adds_cls, separators, **kwargs)
        # One string: Keras and TensorFlow would wrap and track every element of a list.
        self.file = file if isinstance(file, str) else json.dumps(file, ensure_ascii=False)
        _check(self._read)
        self._check_special_tokens()
        self._unigrams: Unigrams | None = None

    @functools.cached_property
    def _read(self) -> Config:
        return json.loads(self.file)

    @functools.cached_property
    def vocabulary(self) -> list[str]:
        """The tokens, in the order of their ids."""
        return _vocabulary(self._read)

    @functools.cached_property
    def _metaspace(self) -> tuple[str, bool, bool]:
        """Which words get a space before them, whether to split at spaces, and at white space."""
        return _metaspace(self._read["pre_tokenizer"])

    def detokenize(self, ids: Tensor) -> tf.Tensor:
        """Join rows of ids, `[B, T]` dense or ragged, to strings, `[B]`, without special tokens."""
        ids = token_ids(ids, len(self.vocabulary))
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(ids)
        added = self._read.get("added_tokens") or []
        special = {token["content"] for token in added if token.get("special")}
        hidden = tf.constant([token in special for token in self.vocabulary])
        ids = tf.ragged.boolean_mask(ids, ids.with_values(~tf.gather(hidden, ids.flat_values)))
        self._tables()
        has_bytes = self._read["decoder"]["type"] == "Sequence"
        shown = [self._added.contents.get(token, token) for token in self.vocabulary]
        tokens = [_byte(token) if has_bytes else token.encode() for token in shown]
        space = _SPACE.encode()
        flat = tf.gather([token.replace(space, b" ") for token in tokens], ids.flat_values)
        if not has_bytes and _scheme(self._read["decoder"]) != "never":
            first = tf.gather([token.replace(space, b"") for token in tokens], ids.flat_values)
            starts = tf.gather(ids.row_starts(), ids.value_rowids())
            flat = tf.where(tf.range(tf.size(flat, tf.int64)) == starts, first, flat)
        text = tf.strings.reduce_join(ids.with_values(flat), axis=-1)
        if has_bytes:
            text = tf.strings.regex_replace(text, r"\A ", "")
        return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {**super().get_config(), "file": self.file}

    def _flat_ids(self, text: tf.Tensor) -> tf.RaggedTensor:
        unigrams = self._tables()
        spans = self._added.spans(text)
        spans = replaced_by(spans, self._words(spans))
        words, _, ids = spans
        ordinary, place = tf.unique(tf.where(ids < 0, words, ""))
        return with_ids(spans, tf.gather(unigrams(ordinary), place), tf.size(text, tf.int64))

    def _words(self, spans: Spans) -> tf.RaggedTensor:
        """The words `[Sp, (W)]` of spans."""
        scheme, splits, everywhere = self._metaspace
        text, rows, ids = spans
        text = tf.where(ids < 0, text, "")
        parts = tf.RaggedTensor.from_tensor(text[:, None])
        if everywhere:
            parts = tf_text.regex_split(text, SPACES, SPACES)
        flat = parts.flat_values
        if everywhere:
            flat = tf.where(tf.strings.regex_full_match(flat, SPACES), "", flat)
        flat = tf.strings.regex_replace(flat, " ", _SPACE)
        bare = (flat != "") & ~tf.strings.regex_full_match(flat, f"(?s){_SPACE}.*")
        if scheme == "first":
            begins = tf.concat([tf.ones_like(rows[:1], tf.bool), rows[1:] != rows[:-1]], 0)
            owner = parts.value_rowids()
            place = tf.range(tf.size(flat, tf.int64))
            bare &= tf.gather(begins, owner) & (place == tf.gather(parts.row_starts(), owner))
        if scheme != "never":
            flat = tf.strings.join([tf.where(bare, _SPACE, ""), flat])
        parts = parts.with_values(flat)
        return tf_text.regex_split(parts, _WORD, _WORD).merge_dims(1, 2) if splits else parts

    def _tables(self) -> Unigrams:
        """The model. It and the table of added tokens are built at the first call."""
        if self._unigrams is None:
            model = self._read["model"]
            tokens, scores = zip(*model["vocab"], strict=True)
            byte_ids = _byte_ids(model)
            # Not in the graph of the first call: later calls use the tables too.
            with tf.init_scope():
                unigrams = Unigrams(tokens, scores, model["unk_id"], byte_ids)
                normalizer = Normalizer(self._read.get("normalizer"))
                added = self._read.get("added_tokens") or []
                self._added = AddedTokens(added, self._ids, normalizer)
                # Attributes of their own, so that TensorFlow tracks them into a SavedModel.
                self._tree, self._added_ids = unigrams.table, self._added.table
                for number, table in enumerate(normalizer.tables):
                    setattr(self, f"_map_{number}", table)
            self._unigrams = unigrams
        return self._unigrams


def _check(file: Config) -> None:
    """Raise a ValueError if the file needs what is not supported."""
    model = file.get("model") or {}
    vocabulary, unknown = model.get("vocab"), model.get("unk_id")
    if model.get("type") != "Unigram" or not isinstance(vocabulary, list) or not vocabulary:
        raise ValueError(f"the model must be Unigram and have vocab, got {', '.join(model)}")
    if type(unknown) is not int or not 0 <= unknown < len(vocabulary):
        raise ValueError(
            f"unk_id must be the id of one of {len(vocabulary)} tokens, got {unknown!r}"
        )
    _byte_ids(model)
    _vocabulary(file)
    normalizers(file.get("normalizer"))
    _metaspace(file.get("pre_tokenizer") or {})
    decoder = file.get("decoder") or {}
    if decoder.get("type") != "Metaspace" and decoder.get("decoders") != _BYTE_DECODERS:
        raise ValueError(
            "the decoder must be Metaspace or a Sequence of Replace, ByteFallback, Fuse and Strip "
            f"that replaces {_SPACE!r} by a space and strips the first one, "
            f"got {described(decoder)}"
        )
    check_added(file.get("added_tokens") or [])


def _vocabulary(file: Config) -> list[str]:
    tokens = dict(enumerate(token for token, _ in file["model"]["vocab"]))
    for added in file.get("added_tokens") or []:
        if tokens.setdefault(added["id"], added["content"]) != added["content"]:
            raise ValueError(
                f"`added_tokens` must have different ids from other tokens, got "
                f"{added['content']!r} with the id of {tokens[added['id']]!r}"
            )
    if max(tokens) >= len(tokens):
        raise ValueError(
            f"the {len(tokens)} tokens must have the ids 0 to {len(tokens) - 1}, got {max(tokens)}"
        )
    return [tokens[index] for index in range(len(tokens))]


def _metaspace(part: Config) -> tuple[str, bool, bool]:
    parts = part["pretokenizers"] if part.get("type") == "Sequence" else [part]
    kinds = [each.get("type") for each in parts]
    if kinds not in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        raise ValueError(
            "the pre-tokenizer must be Metaspace, or WhitespaceSplit followed by Metaspace, "
            f"got {described(part)}"
        )
    space = parts[-1]
    if space.get("replacement") != _SPACE or _scheme(space) not in _SCHEMES:
        raise ValueError(
            f"Metaspace must have the replacement {_SPACE!r} and a prepend_scheme among "
            f"{', '.join(_SCHEMES)}, got {space.get('replacement')!r} and {_scheme(space)!r}"
        )
    return _scheme(space), space.get("split", True), len(parts) > 1


def _scheme(space: Config) -> str:
    """Which words get a space before them; older files have a flag instead."""
    flag = "always" if space.get("add_prefix_space", True) else "never"
    return space.get("prepend_scheme") or flag


def _byte_ids(model: Config) -> list[int] | None:
    if not model.get("byte_fallback"):
        return None
    ids = {token: index for index, (token, _) in enumerate(model["vocab"])}
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    missing = [name for name in names if name not in ids]
    if missing:
        raise ValueError(f"byte_fallback needs a token for each byte, got none for {missing[0]}")
    return [ids[name] for name in names]


def _byte(token: str) -> bytes:
    """The bytes that a token represents; a token such as <0x0A> is a single byte."""
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return bytes([int(token[3:5], 16)]) if is_byte else token.encode()


def described(part: Config) -> str:
    """The types in a part of tokenizer.json, for an error message."""
    keys = ("pretokenizers", "normalizers", "decoders")
    nested = next((part[key] for key in keys if part.get(key)), ())
    name = part.get("type") or "none"
    return f"{name} of {', '.join(described(one) for one in nested)}" if nested else name
