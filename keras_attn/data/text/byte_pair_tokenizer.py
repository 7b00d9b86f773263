"""The byte-pair tokenizer of GPT-2, RoBERTa and ModernBERT, in the graph.

Letters: B batch, Sp spans of text (flat), W words (flat), T tokens of a row (ragged), V vocabulary.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from keras_attn._keras import register
from keras_attn._typing import Config, Tensor
from keras_attn.data._tensorflow import strings, tf, tf_text
from keras_attn.data.text.byte_offsets import token_offsets, word_offsets
from keras_attn.data.text.byte_pairs import Merges, split_words, to_bytes
from keras_attn.data.text.segments import token_ids
from keras_attn.data.text.spans import AddedTokens, Spans, check_added, replaced_by, with_ids
from keras_attn.data.text.subwords import SubwordTokenizer

NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD")


@register()
class BytePairTokenizer(SubwordTokenizer):
    """A tokenizer by byte-pair encoding, with the ids of the package `tokenizers`.

    Added tokens are found first. The text between them is normalized and split into words as GPT-2
    does it (each word with the space before it). Then the bytes of a word are merged by the rules,
    in the order of the rules. Every byte has a token: `detokenize` restores the text exactly.

    It works eagerly, in `tf.data`, in a functional model with
    `keras.Input(shape=(), dtype="string")` (TensorFlow backend) and in a SavedModel. The
    vocabulary is part of the config. Invalid UTF-8 becomes U+FFFD. `read_tokenizer` makes one
    from a checkpoint's files.

    Args:
        vocabulary: token to id, the ids 0 to V - 1, with a character for each byte as in
            vocab.json.
        merges: the merge rules: two tokens separated by a space, as in merges.txt.
        added_tokens: the added tokens, as in tokenizer.json: objects with `content` and, if true,
            `lstrip` and `rstrip` (the token includes the white space before or after it),
            `normalized` (it is found after normalization), `special` (`detokenize` leaves it
            out). They must be in the vocabulary.
        special_tokens: the tokens whose ids are `cls_id`, `sep_id`, `pad_id`, `unk_id` and
            `mask_id`, by the keys "cls", "sep", "pad", "unk" and "mask"; defaults to their usual
            names.
        normalizer: None, or a normalization form of Unicode: NFC, NFD, NFKC, NFKD.
        add_prefix_space: whether a space is added before text that does not begin with one.
        unknown_token: the token for a byte that has no token; None leaves such bytes out.
        adds_cls: whether rows of the checkpoint begin with the token "cls". If so,
            `export.Generation` puts it before each prompt, otherwise only before an empty one.
        separators: the number of "sep" tokens between two texts of a row; 2 for RoBERTa.

    Call arguments:
        text: strings, `[B]`, or ragged of any depth.

    Returns:
        int32 ids, ragged `[B, (T)]`; one more ragged axis than `text`. No special token is added.

    Raises:
        ValueError: the ids have gaps, a rule or an added token is not in the vocabulary, or an
            argument has a value that is not supported; in a call, `text` has another shape.

    Example:
    >>> vocabulary = {"l": 0, "o": 1, "w": 2, "lo": 3, "low": 4, "Ġ": 5, "<|endoftext|>": 6}
    >>> end = {"content": "<|endoftext|>", "special": True}
    >>> tokenizer = BytePairTokenizer(vocabulary, ["l o", "lo w"], [end])
    >>> ids = tokenizer(["low lol<|endoftext|>"])
    >>> ids.to_list()
    [[4, 5, 3, 0, 6]]
    >>> tokenizer.detokenize(ids).numpy()[0].decode()
    'low lol'

    Source: Radford et al. 2019, section 2.2; Sennrich et al. 2016, section 3.2.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[str],
        added_tokens: Sequence[Config] = (),
        special_tokens: Mapping[str, str] | None = None,
        normalizer: str | None = None,
        add_prefix_space: bool = False,
        unknown_token: str | None = None,
        adds_cls: bool = False,
        separators: int = 1,
        **kwargs: Any,
    ):
        super().__init__(special_tokens, adds_cls, separators, **kwargs)
        added_tokens = [{k: v for k, v in token.items() if k != "id"} for token in added_tokens]
        _check(vocabulary, merges, added_tokens, normalizer, unknown_token)
        # One string: Keras and TensorFlow would wrap and track every element of a list.
        self._files = json.dumps(
            {
                "vocabulary": dict(vocabulary),
                "merges": list(merges),
                "added_tokens": added_tokens,
            }
        )
        self.normalizer = normalizer
        self.add_prefix_space = add_prefix_space
        self.unknown_token = unknown_token
        self._merges: Merges | None = None
        self._check_special_tokens()

    @functools.cached_property
    def _read(self) -> Config:
        return json.loads(self._files)  # Keras and TensorFlow do not track a cached property

    @functools.cached_property
    def vocabulary(self) -> list[str]:
        """The tokens, in the order of their ids."""
        ids = self._read["vocabulary"]
        return sorted(ids, key=ids.get)

    def tokenize_with_offsets(
        self, text: Tensor, whole_words: bool = False
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """The ids of `text`, and where in the text each token begins and ends.

        Args:
            text: as in a call.
            whole_words: whether the begin and the end are those of the token's whole word. White
                space separates words.

        Returns:
            Three ragged int32 tensors `[B, (T)]`: the ids, the first byte of each token in the
            original string, without white space at its ends, and the byte after its last. For a
            token of white space alone both are equal.
        """
        text = strings("text", text)
        if isinstance(text, tf.RaggedTensor):
            parts = self.tokenize_with_offsets(text.values, whole_words)
            return tuple(text.with_values(part) for part in parts)
        ids = self(text)
        found = token_offsets(text, self._texts(ids, special=True), self._normalize)
        begins, ends = (ids.with_values(tf.cast(offset, tf.int32)) for offset in found)
        return (ids, *(word_offsets(begins, ends) if whole_words else (begins, ends)))

    def detokenize(self, ids: Tensor) -> tf.Tensor:
        """Join rows of ids, `[B, T]` dense or ragged, to strings, `[B]`.

        Special tokens are left out. Incomplete characters become U+FFFD.
        """
        texts = self._texts(token_ids(ids, len(self.vocabulary)), special=False)
        text = tf.strings.reduce_join(texts, axis=-1)
        return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            **json.loads(self._files),
            "normalizer": self.normalizer,
            "add_prefix_space": self.add_prefix_space,
            "unknown_token": self.unknown_token,
        }

    def _flat_ids(self, text: tf.Tensor) -> tf.RaggedTensor:
        merges = self._tables()
        spans = self._added.spans(text)
        spans = replaced_by(spans, split_words(self._prefixed(spans)))
        words, _, ids = spans
        ordinary, place = tf.unique(tf.where(ids < 0, words, ""))
        return with_ids(spans, tf.gather(merges(ordinary), place), tf.size(text, tf.int64))

    def _texts(self, ids: Tensor, special: bool) -> tf.RaggedTensor:
        """The text of each token, in the shape of ids; special tokens give "" unless `special`."""
        self._tables()
        added = dict(self._added.contents)
        if not special:
            added |= {t["content"]: "" for t in self._read["added_tokens"] if t.get("special")}
        texts = tf.constant(
            [
                added[token].encode() if token in added else to_bytes(token)
                for token in self.vocabulary
            ]
        )
        return tf.ragged.map_flat_values(lambda flat: tf.gather(texts, flat), ids)

    def _prefixed(self, spans: Spans) -> tf.Tensor:
        """The text of the spans, with the space that the checkpoint adds; "" for added tokens."""
        text, _, ids = spans
        if self.add_prefix_space:
            bare = (text != "") & ~tf.strings.regex_full_match(text, "(?s) .*")
            text = tf.strings.join([tf.where(bare, " ", ""), text])
        return tf.where(ids < 0, text, "")

    def _normalize(self, text: tf.Tensor) -> tf.Tensor:
        return tf_text.normalize_utf8(text, self.normalizer) if self.normalizer else text

    def _tables(self) -> Merges:
        """The merge rules. They and the table of added tokens are built at the first call."""
        if self._merges is None:
            ids = self._read["vocabulary"]
            pairs = [tuple(merge.split(" ")) for merge in self._read["merges"]]
            # Not in the graph of the first call: later calls use the tables too.
            with tf.init_scope():
                merges = Merges(ids, pairs, ids.get(self.unknown_token))
                self._added = AddedTokens(self._read["added_tokens"], ids, self._normalize)
                # Attributes of their own, so that TensorFlow tracks them into a SavedModel.
                self._rules, self._added_ids = merges.table, self._added.table
            self._merges = merges
        return self._merges


def _check(
    vocabulary: Mapping[str, int],
    merges: Sequence[str],
    added_tokens: Sequence[Config],
    normalizer: str | None,
    unknown_token: str | None,
) -> None:
    """Raise a ValueError for arguments that are wrong or not supported."""
    ids = sorted(vocabulary.values())
    if not ids or ids != list(range(len(ids))):
        raise ValueError(
            f"`vocabulary` must give its {len(ids)} tokens the ids 0 to {len(ids) - 1} without gaps"
        )
    for merge in merges:
        pair = merge.split(" ")
        for token in (*pair, "".join(pair)):
            if len(pair) != 2 or token not in vocabulary:
                raise ValueError(
                    "each of `merges` must be two tokens separated by a space, and both and their "
                    f"concatenation must be in the vocabulary, got {merge!r}"
                )
    names = [token.get("content") for token in added_tokens]
    for argument, tokens in (
        ("added_tokens", names),
        ("unknown_token", [] if unknown_token is None else [unknown_token]),
    ):
        missing = [token for token in tokens if token not in vocabulary or token == ""]
        if missing:
            raise ValueError(f"`{argument}` must be in the vocabulary, got {missing[0]!r}")
    check_added(added_tokens)
    if normalizer is not None and normalizer not in NORMALIZERS:
        raise ValueError(
            f"`normalizer` must be None or one of {', '.join(NORMALIZERS)}, got {normalizer!r}"
        )
