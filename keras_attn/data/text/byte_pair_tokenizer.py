"""Strings to the ids of GPT-2, RoBERTa and ModernBERT, and back, in the graph.

B batch, P spans of text (flat), W words (flat), T tokens of a row (ragged), V vocabulary.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_attn._keras import register
from keras_attn.data._tensorflow import strings, symbolic_ids, tf, tf_text
from keras_attn.data.text.byte_pairs import (
    SPACES,
    Merges,
    literal,
    replaced_by,
    split_words,
    to_bytes,
    valid,
)
from keras_attn.data.text.segments import check_ids

NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD")
# What checkpoints call the tokens of each role, the first that the vocabulary has.
_ROLES = {
    "cls": ("[CLS]", "<s>", "<|endoftext|>"),
    "sep": ("[SEP]", "</s>", "<|endoftext|>"),
    "pad": ("[PAD]", "<pad>", "<|endoftext|>"),
    "unk": ("[UNK]", "<unk>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
}


@register()
class BytePairTokenizer(keras.layers.Layer):
    """Splits strings into byte pairs, with the ids of the package `tokenizers`.

    Added tokens are found first; what is between them is normalized and split into words as by
    GPT-2 (each with the space before it); the bytes of a word are merged by the rules, the first
    rule first. Every byte has a token, so that `detokenize` gives the text back exactly.

    It works eagerly, in `tf.data`, in a functional model with
    `keras.Input(shape=(), dtype="string")` (TensorFlow backend) and in a SavedModel. The
    vocabulary is part of the config. Invalid UTF-8 becomes U+FFFD. `read_tokenizer` makes one
    from a checkpoint's files.

    Args:
        vocabulary: token to id, the ids 0 to V - 1, with a character for each byte as in
            vocab.json.
        merges: the rules, each two tokens with a space between, as in merges.txt.
        added_tokens: of tokenizer.json: objects with `content` and, if true, `lstrip`, `rstrip`
            (white space before or behind goes with it), `normalized` (it is found after
            normalization), `special` (`detokenize` leaves it out). They must be in the vocabulary.
        special_tokens: the tokens whose ids are `cls_id`, `sep_id`, `pad_id`, `unk_id`,
            `mask_id`, under "cls" and so on; defaults to their usual names.
        normalizer: None, or a form of Unicode: NFC, NFD, NFKC, NFKD.
        add_prefix_space: whether text begins with a space, given or not.
        unknown_token: stands for a byte that has no token; None leaves it out.
        adds_cls: whether the checkpoint's rows begin with the token "cls": `export.Generation`
            puts it before each prompt then, otherwise only where a prompt is empty.

    Call arguments:
        text: strings, [B], or ragged of any depth.

    Returns:
        int32 ids, ragged [B, (T)]; one more ragged axis than `text`. No special token is added.

    Raises:
        ValueError: if ids have gaps, a rule or an added token is not in the vocabulary, something
            is asked for that is not supported; if `text` has another shape.

    Example:
    >>> vocabulary = {"l": 0, "o": 1, "w": 2, "lo": 3, "low": 4, "Ġ": 5, "<|endoftext|>": 6}
    >>> end = {"content": "<|endoftext|>", "special": True}
    >>> tokenizer = BytePairTokenizer(vocabulary, ["l o", "lo w"], [end])
    >>> ids = tokenizer(["low lol<|endoftext|>"])
    >>> ids.to_list()
    [[4, 5, 3, 0, 6]]
    >>> tokenizer.detokenize(ids).numpy()[0].decode()
    'low lol'

    Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
    section 2.2; Sennrich et al. 2016, https://arxiv.org/abs/1508.07909, section 3.2
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[str],
        added_tokens: Sequence[Mapping[str, Any]] = (),
        special_tokens: Mapping[str, str] | None = None,
        normalizer: str | None = None,
        add_prefix_space: bool = False,
        unknown_token: str | None = None,
        adds_cls: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        # Strings must reach `call` as they are: no other backend has a tensor for them.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        added_tokens = [{k: v for k, v in token.items() if k != "id"} for token in added_tokens]
        special_tokens = dict(special_tokens or {})
        _check(vocabulary, merges, added_tokens, special_tokens, normalizer, unknown_token)
        # One string: Keras and TensorFlow would wrap and watch every element of a list.
        self._files = json.dumps(
            {
                "vocabulary": dict(vocabulary),
                "merges": list(merges),
                "added_tokens": added_tokens,
                "special_tokens": special_tokens,
            }
        )
        self.normalizer = normalizer
        self.add_prefix_space = add_prefix_space
        self.unknown_token = unknown_token
        self.adds_cls = adds_cls
        self._merges: Merges | None = None
        self.built = True

    @functools.cached_property
    def _read(self) -> dict[str, Any]:
        return json.loads(self._files)  # in the cache of the property nobody watches it

    @functools.cached_property
    def vocabulary(self) -> list[str]:
        """The tokens, in the order of their ids."""
        ids = self._read["vocabulary"]
        return sorted(ids, key=ids.get)

    @property
    def pad_id(self) -> int:
        """The id of the token that fills rows; GPT-2 has none of its own, its end stands in."""
        return self._special_id("pad")

    @property
    def unk_id(self) -> int:
        """The id of the token for what is unknown."""
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
        """The id of the token that hides another."""
        return self._special_id("mask")

    def call(self, text: Any) -> tf.RaggedTensor:
        """The ids of `text`."""
        text = strings("text", text)
        if isinstance(text, tf.RaggedTensor):
            return text.with_values(self.call(text.values))
        if text.shape.rank != 1:
            raise ValueError(f"`text` must have the shape [B], got {text.shape}")
        text = valid(text)
        count = tf.size(text, tf.int64)
        spans = (text, tf.range(count), tf.fill([count], -1))
        merges = self._tables()
        added = self._read["added_tokens"]
        spans = self._split_added(*spans, [t for t in added if not t.get("normalized")])
        if self.normalizer:
            spans = (tf_text.normalize_utf8(spans[0], self.normalizer), *spans[1:])
        spans = self._split_added(*spans, [t for t in added if t.get("normalized")])
        words, rows, ids = replaced_by(*spans, split_words(self._prefixed(*spans)))
        ordinary, place = tf.unique(tf.where(ids < 0, words, ""))
        tokens = tf.gather(merges(ordinary), place)
        fixed = tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(ids, ids >= 0), tf.cast(ids >= 0, tf.int64)
        )
        tokens = tf.concat([tokens, fixed], axis=1)  # [W, (T)]: one of both is empty
        rows = tf.gather(rows, tokens.value_rowids())
        return tf.RaggedTensor.from_value_rowids(tokens.values, rows, nrows=count)  # [B, (T)]

    def tokens(self, ids: Any) -> tf.Tensor | tf.RaggedTensor:
        """The tokens as strings, as the vocabulary writes them, of the shape of `ids`."""
        return tf.ragged.map_flat_values(
            lambda flat: tf.gather(tf.constant(self.vocabulary), flat), self._checked(ids)
        )

    def detokenize(self, ids: Any) -> tf.Tensor:
        """Joins rows of ids, [B, T] dense or ragged, to strings, [B].

        Special tokens are left out. A character of which a byte is missing becomes U+FFFD.
        """
        added = {token["content"]: token.get("special") for token in self._read["added_tokens"]}
        texts = tf.constant(
            [
                b"" if added.get(token) else token.encode() if token in added else to_bytes(token)
                for token in self.vocabulary
            ]
        )
        texts = tf.ragged.map_flat_values(lambda flat: tf.gather(texts, flat), self._checked(ids))
        text = tf.strings.reduce_join(texts, axis=-1)
        return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")

    def compute_output_spec(self, text: keras.KerasTensor) -> keras.KerasTensor:
        """The symbolic outputs."""
        return symbolic_ids(self, text)

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments."""
        return {
            **super().get_config(),
            **json.loads(self._files),
            "normalizer": self.normalizer,
            "add_prefix_space": self.add_prefix_space,
            "unknown_token": self.unknown_token,
            "adds_cls": self.adds_cls,
        }

    def _split_added(
        self, text: tf.Tensor, rows: tf.Tensor, ids: tf.Tensor, added: list[dict]
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Spans split at added tokens, whose ids are known then; -1 stands for text."""
        if not added:
            return text, rows, ids
        longest = sorted((str(token["content"]) for token in added), key=len, reverse=True)
        pattern = "|".join(literal(content) for content in longest)
        parts = tf_text.regex_split(tf.where(ids < 0, text, ""), pattern, pattern)  # [P, (parts)]
        flat, owner = parts.flat_values, parts.value_rowids()
        same = owner[1:] == owner[:-1]
        is_added = tf.strings.regex_full_match(flat, pattern)
        for side in ("lstrip", "rstrip"):
            eager = [literal(token["content"]) for token in added if token.get(side)]
            if not eager:
                continue
            match = tf.strings.regex_full_match(flat, "|".join(eager))
            if side == "lstrip":
                beside = tf.pad(match[1:] & same, [[0, tf.minimum(tf.size(flat), 1)]])
                cut = tf.strings.regex_replace(flat, f"{SPACES}$", "")
            else:
                beside = tf.pad(match[:-1] & same, [[tf.minimum(tf.size(flat), 1), 0]])
                cut = tf.strings.regex_replace(flat, f"^{SPACES}", "")
            flat = tf.where(beside & ~is_added, cut, flat)
        text, rows, found = replaced_by(text, rows, ids, parts.with_flat_values(flat))
        numbers = self._added_ids.lookup(text)
        is_added = (found < 0) & tf.strings.regex_full_match(text, pattern)
        return text, rows, tf.where(is_added, numbers, found)

    def _prefixed(self, text: tf.Tensor, rows: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """The text among the spans, with the space before it that the checkpoint asks for."""
        if self.add_prefix_space:
            bare = (text != "") & ~tf.strings.regex_full_match(text, "(?s) .*")
            text = tf.strings.join([tf.where(bare, " ", ""), text])
        return tf.where(ids < 0, text, "")

    def _special_id(self, role: str) -> int:
        named = self._read["special_tokens"].get(role)
        names = _ROLES[role] if named is None else (named,)
        for name in names:
            if name in self.vocabulary:
                return self.vocabulary.index(name)
        raise ValueError(
            f"`special_tokens` must name a token under {role!r}: the vocabulary has none of "
            f"{', '.join(names)}"
        )

    def _checked(self, ids: Any) -> tf.Tensor | tf.RaggedTensor:
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.convert_to_tensor(ids)
        check_ids(ids, len(self.vocabulary), "ids")
        return ids

    def _tables(self) -> Merges:
        """The merge rules; they and the ids of added tokens are built at the first call."""
        if self._merges is None:
            ids = self._read["vocabulary"]
            pairs = [tuple(merge.split(" ")) for merge in self._read["merges"]]
            added = [token["content"] for token in self._read["added_tokens"]] or [""]
            # The tables outlive the graph in which the layer happens to be called first.
            with tf.init_scope():
                merges = Merges(ids, pairs, ids.get(self.unknown_token))
                # Attributes of their own, so that TensorFlow tracks them into a SavedModel.
                self._rules = merges.table
                initializer = tf.lookup.KeyValueTensorInitializer(
                    added, tf.constant([ids.get(token, -1) for token in added], tf.int32)
                )
                self._added_ids = tf.lookup.StaticHashTable(initializer, -1)
            self._merges = merges
        return self._merges


def _check(
    vocabulary: Mapping[str, int],
    merges: Sequence[str],
    added_tokens: Sequence[Mapping[str, Any]],
    special_tokens: Mapping[str, str],
    normalizer: str | None,
    unknown_token: str | None,
) -> None:
    """Raises a ValueError that says what is wrong with the arguments."""
    ids = sorted(vocabulary.values())
    if not ids or ids != list(range(len(ids))):
        raise ValueError(
            f"`vocabulary` must give its {len(ids)} tokens the ids 0 to {len(ids) - 1}, each once"
        )
    for merge in merges:
        pair = merge.split(" ")
        for token in (*pair, "".join(pair)):
            if len(pair) != 2 or token not in vocabulary:
                raise ValueError(
                    "`merges` must be two tokens of the vocabulary with a space between, which "
                    f"together are one too, got {merge!r}"
                )
    if not isinstance(special_tokens, dict) or not set(_ROLES).issuperset(special_tokens):
        raise ValueError(
            f"`special_tokens` must be for {', '.join(_ROLES)}, got {', '.join(special_tokens)}"
        )
    names = [token.get("content") for token in added_tokens]
    for argument, tokens in (
        ("added_tokens", names),
        ("special_tokens", special_tokens.values()),
        ("unknown_token", [] if unknown_token is None else [unknown_token]),
    ):
        missing = [token for token in tokens if token not in vocabulary or token == ""]
        if missing:
            raise ValueError(f"`{argument}` must be in the vocabulary, got {missing[0]!r}")
    whole = [token["content"] for token in added_tokens if token.get("single_word")]
    if whole:
        raise ValueError(
            f"`added_tokens` may be found with lstrip, rstrip and normalized, got {whole[0]!r} "
            "with single_word"
        )
    if normalizer is not None and normalizer not in NORMALIZERS:
        raise ValueError(
            f"`normalizer` must be None or one of {', '.join(NORMALIZERS)}, got {normalizer!r}"
        )
