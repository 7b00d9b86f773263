"""Finds added tokens in text, for the tokenizers that are read from a checkpoint.

A span is ordinary text or one added token. It has the number of its row, and the id of the added
token or -1.

Letters: Sp spans (flat), T tokens of a span (ragged).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from keras_attn._typing import Config
from keras_attn.data._tensorflow import tf, tf_text

# White space as Unicode defines it; RE2's \s has only some characters of ASCII.
SPACE = r"\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
SPACES = f"[{SPACE}]+"

# tensorflow-text ends a string at its first zero byte. Until words are split, a surrogate replaces
# it: valid UTF-8 has none, and like the zero byte it is not a letter, a number or a space.
ZERO = b"\xed\xa0\x80"

Spans: TypeAlias = "tuple[tf.Tensor, tf.Tensor, tf.Tensor]"


def hide_zeros(text: tf.Tensor) -> tf.Tensor:
    """The text as valid UTF-8, its zero bytes replaced."""
    text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
    return tf.strings.regex_replace(text, r"\x{0}", ZERO)


def show_zeros(text: tf.Tensor) -> tf.Tensor:
    """The text with its zero bytes restored."""
    return tf.strings.regex_replace(text, ZERO, b"\0")


def literal(text: str) -> str:
    """A regular expression that matches exactly this text."""
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)


def replaced_by(spans: Spans, parts: tf.RaggedTensor) -> Spans:
    """Replace the text of each span by its parts `[Sp, (parts)]`; added tokens stay."""
    text, rows, ids = spans
    parts = tf.concat([parts, tf.RaggedTensor.from_tensor(text[:, None])], axis=1)
    last = tf.range(tf.size(parts.flat_values, tf.int64)) == tf.gather(
        parts.row_limits() - 1, parts.value_rowids()
    )
    owner = parts.value_rowids()
    # The span itself, after its parts, is kept if it is an added token.
    kept = tf.where(last, tf.gather(ids, owner) >= 0, parts.flat_values != "")
    owner = tf.boolean_mask(owner, kept)
    return tf.boolean_mask(parts.flat_values, kept), tf.gather(rows, owner), tf.gather(ids, owner)


def with_ids(spans: Spans, tokens: tf.RaggedTensor, rows: tf.Tensor) -> tf.RaggedTensor:
    """The ids of `rows` rows: `tokens` `[Sp, (T)]` of ordinary text, and those of added tokens."""
    _, owner, ids = spans
    fixed = tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(ids, ids >= 0), tf.cast(ids >= 0, tf.int64), validate=False
    )
    tokens = tf.concat([tokens, fixed], axis=1)
    owner = tf.gather(owner, tokens.value_rowids())
    return tf.RaggedTensor.from_value_rowids(tokens.values, owner, nrows=rows, validate=False)


def check_added(added_tokens: Sequence[Config]) -> None:
    """Raise a ValueError for a property of an added token that is not supported."""
    whole = [token["content"] for token in added_tokens if token.get("single_word")]
    if whole:
        raise ValueError(
            f"`added_tokens` may have lstrip, rstrip and normalized, got {whole[0]!r} with "
            "single_word"
        )
    zeros = [token["content"] for token in added_tokens if "\0" in token["content"]]
    if zeros:
        raise ValueError(f"`added_tokens` must not contain a zero byte, got {zeros[0]!r}")


class AddedTokens:
    """The tokens that are found in a text before the rest of it is split by the model.

    Args:
        tokens: objects as in tokenizer.json, with `content` and, if true, `lstrip`, `rstrip`,
            `normalized`.
        vocabulary: token to id.
        normalize: the normalization of text; tokens with `normalized` are found after it.
    """

    def __init__(
        self,
        tokens: Sequence[Config],
        vocabulary: Mapping[str, int],
        normalize: Callable[[tf.Tensor], tf.Tensor],
    ):
        self._normalize = normalize
        self._groups: dict[bool, list[tuple[str, Config]]] = {False: [], True: []}
        for token in tokens:
            late, content = bool(token.get("normalized")), token["content"]
            if late:
                content = normalize(tf.constant([content]))[0].numpy().decode()
            if content:
                self._groups[late].append((content, token))
        both = [*self._groups[True], *self._groups[False]]
        found = {content: vocabulary[token["content"]] for content, token in both}
        # The text of each token, normalized if the token is.
        self.contents = {token["content"]: content for content, token in both}
        initializer = tf.lookup.KeyValueTensorInitializer(
            tf.constant([*found, ""]), tf.constant([*found.values(), -1], tf.int32)
        )
        self.table = tf.lookup.StaticHashTable(initializer, -1)

    def spans(self, text: tf.Tensor) -> Spans:
        """The spans of strings `[B]`: added tokens, and the normalized text between them."""
        count = tf.size(text, tf.int64)
        text = hide_zeros(text)
        text, rows, ids = self._split((text, tf.range(count), tf.fill([count], -1)), False)
        normalized = tf.where(ids < 0, self._normalize(tf.where(ids < 0, text, "")), text)
        return self._split((normalized, rows, ids), True)

    def _split(self, spans: Spans, late: bool) -> Spans:
        """Split spans at added tokens: at those found after normalization if `late`."""
        if not self._groups[late]:
            return spans
        text, _, ids = spans
        contents = sorted((content for content, _ in self._groups[late]), key=len, reverse=True)
        pattern = "|".join(literal(content) for content in contents)
        parts = tf_text.regex_split(tf.where(ids < 0, text, ""), pattern, pattern)  # [Sp, (parts)]
        flat, owner = parts.flat_values, parts.value_rowids()
        same = owner[1:] == owner[:-1]
        is_added = tf.strings.regex_full_match(flat, pattern)
        for side in ("lstrip", "rstrip"):
            eager = [literal(content) for content, token in self._groups[late] if token.get(side)]
            if not eager:
                continue
            match = tf.strings.regex_full_match(flat, "|".join(eager))
            if side == "lstrip":
                adjacent = tf.pad(match[1:] & same, [[0, tf.minimum(tf.size(flat), 1)]])
                cut = tf.strings.regex_replace(flat, f"{SPACES}$", "")
            else:
                adjacent = tf.pad(match[:-1] & same, [[tf.minimum(tf.size(flat), 1), 0]])
                cut = tf.strings.regex_replace(flat, f"^{SPACES}", "")
            flat = tf.where(adjacent & ~is_added, cut, flat)
        text, rows, ids = replaced_by(spans, parts.with_flat_values(flat))
        is_added = (ids < 0) & tf.strings.regex_full_match(text, pattern)
        return text, rows, tf.where(is_added, self.table.lookup(text), ids)
