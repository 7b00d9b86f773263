"""The normalizers of a tokenizer.json, in the graph.

Letters: Sp strings (flat), Ch characters (flat).
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable

import numpy as np

from keras_attn._typing import Config
from keras_attn.data._tensorflow import tf, tf_text
from keras_attn.data.text.spans import SPACE, SPACES, ZERO, hide_zeros, literal, show_zeros

FORMS = ("NFC", "NFD", "NFKC", "NFKD")
# Regular expressions of checkpoints, and the same in RE2 with Unicode's white space.
_EXPRESSIONS = {
    " {2,}": " {2,}",
    r"\s+": SPACES,
    r"\s{2,}|[\n\r\t]": rf"[{SPACE}]{{2,}}|[\n\r\t]",
    r"\A +| +\z": r"\A +| +\z",
    r"\A▁": r"\A▁",
}
_KINDS = (*FORMS, "Precompiled", "Replace", "Lowercase", "StripAccents", "Strip")
# A grapheme cluster (what a reader sees as one character) of several code points: its parts.
_BEFORE = r"[\x{600}-\x{605}\x{6DD}\x{70F}\x{890}\x{891}\x{8E2}]"
_AFTER = r"[\p{Mn}\p{Me}\p{Mc}\x{200C}\x{200D}\x{E33}\x{EB3}\x{FF9E}\x{FF9F}\x{1F3FB}-\x{1F3FF}]"
_BASE = r"[^\p{Cc}\p{Cf}\p{Zl}\p{Zp}]"
_CLUSTER = rf"\r\n|{_BEFORE}+{_BASE}{_AFTER}*|(?:{_BASE}|{_BEFORE}|{_AFTER}){_AFTER}+"
_LONGEST = 5  # bytes of a cluster that is looked up as a whole
_NONE = "\uffff"


def normalizers(part: Config | None) -> list[Config]:
    """The steps of a normalizer of tokenizer.json, in their order.

    Raises:
        ValueError: one of them is not supported.
    """
    if not part:
        return []
    kind = part.get("type")
    if kind == "Sequence":
        return [step for inner in part["normalizers"] for step in normalizers(inner)]
    if kind not in _KINDS:
        raise ValueError(f"the normalizer must be one of {', '.join(_KINDS)}, got {kind}")
    pattern = part["pattern"] if kind == "Replace" else {}
    if "Regex" in pattern and pattern["Regex"] not in _EXPRESSIONS:
        raise ValueError(
            f"the normalizer may replace strings and {', '.join(map(repr, _EXPRESSIONS))}, "
            f"got {pattern['Regex']!r}"
        )
    return [part]


class Normalizer:
    """The normalization of strings `[Sp]` that a tokenizer.json asks for.

    Args:
        part: the object `normalizer` of tokenizer.json.
    """

    def __init__(self, part: Config | None):
        self._steps: list[Callable[[tf.Tensor], tf.Tensor]] = []
        self.tables: list[tf.lookup.StaticHashTable] = []
        for step in normalizers(part):
            self._steps.append(self._step(step))

    def __call__(self, text: tf.Tensor) -> tf.Tensor:
        """The normalized text, its zero bytes replaced."""
        text = show_zeros(text)
        for step in self._steps:
            text = step(text)
        return hide_zeros(text)

    def _step(self, part: Config) -> Callable[[tf.Tensor], tf.Tensor]:
        kind = part["type"]
        if kind in FORMS:
            return lambda text: tf_text.normalize_utf8(text, kind)
        if kind == "Lowercase":
            return _lower
        if kind == "StripAccents":
            return lambda text: _replaced(text, r"\p{M}", "")
        if kind == "Strip":
            sides = {"strip_left": rf"\A{SPACES}", "strip_right": rf"{SPACES}\z"}
            pattern = "|".join(side for key, side in sides.items() if part.get(key)) or r"\A"
            return lambda text: _replaced(text, pattern, "")
        if kind == "Replace":
            (how, wanted), content = next(iter(part["pattern"].items())), part["content"]
            pattern = _EXPRESSIONS[wanted] if how == "Regex" else literal(wanted)
            return lambda text: _replaced(text, pattern, content)
        charsmap = Charsmap(part["precompiled_charsmap"])
        self.tables.append(charsmap.table)
        return charsmap


def _lower(text: tf.Tensor) -> tf.Tensor:
    # TensorFlow lower-cases a sigma at the end of a word to another character than `tokenizers`.
    lower = functools.partial(tf.strings.lower, encoding="utf-8")
    return _between_zeros(lower, _replaced(text, "Σ", "σ"))


def _between_zeros(function: Callable[[tf.Tensor], tf.Tensor], text: tf.Tensor) -> tf.Tensor:
    """Apply a function to the parts of text `[Sp]` between zero bytes."""
    parts = tf.strings.split(hide_zeros(text), ZERO)  # [Sp, (parts)]
    mapped = tf.strings.join([ZERO, function(parts.flat_values)])
    mapped = tf.strings.reduce_join(parts.with_flat_values(mapped), axis=-1)
    return _replaced(show_zeros(mapped), r"\A\x{0}", "")


def _replaced(text: tf.Tensor, pattern: str, content: str) -> tf.Tensor:
    return tf.strings.regex_replace(text, pattern, content.replace("\\", "\\\\"))


class Charsmap:
    """A character map compiled by SentencePiece, applied as by the package `tokenizers`.

    A grapheme cluster of up to five bytes is looked up first: the shortest prefix of it that is in
    the map decides for the whole cluster. Otherwise each code point is looked up by itself.

    Args:
        compiled: the map, in base64.
    """

    def __init__(self, compiled: str):
        content = base64.b64decode(compiled)
        found = _keys(content)
        initializer = tf.lookup.KeyValueTensorInitializer(
            tf.constant([*found, b""]), tf.constant([*found.values(), b""])
        )
        self.table = tf.lookup.StaticHashTable(initializer, _NONE)

    def __call__(self, text: tf.Tensor) -> tf.Tensor:
        """The mapped text `[Sp]`."""
        return _between_zeros(self._map, text)

    def _map(self, text: tf.Tensor) -> tf.Tensor:
        parts = tf_text.regex_split(text, _CLUSTER, _CLUSTER)  # [Sp, (parts)]
        flat = parts.flat_values
        short = tf.strings.regex_full_match(flat, _CLUSTER)
        short &= tf.strings.length(flat) <= _LONGEST
        found = tf.fill(tf.shape(flat), _NONE)
        for count in reversed(range(1, _LONGEST + 1)):
            begin = tf.strings.substr(flat, 0, count, unit="UTF8_CHAR")
            shorter = self.table.lookup(begin)
            found = tf.where(short & (shorter != _NONE), shorter, found)
        whole = found != _NONE
        chars = tf.strings.unicode_split(tf.where(whole, "", flat), "UTF-8")  # [parts, (Ch)]
        kinds, place = tf.unique(chars.flat_values)
        mapped = self.table.lookup(kinds)
        mapped = tf.gather(tf.where(mapped == _NONE, kinds, mapped), place)
        mapped = tf.strings.reduce_join(chars.with_values(mapped), axis=-1)
        mapped = parts.with_flat_values(tf.where(whole, found, mapped))
        return tf.strings.reduce_join(mapped, axis=-1)


def _keys(content: bytes) -> dict[bytes, bytes]:
    """The entries of a compiled map whose key has at most five bytes."""
    size = int.from_bytes(content[:4], "little")
    units = np.frombuffer(content[4 : 4 + size], "<u4")
    texts = content[4 + size :]
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    found: dict[bytes, bytes] = {}
    level = [(int(offsets[0]), b"")]
    for _ in range(_LONGEST):
        places = np.array([place for place, _ in level], np.int64)
        children = places[:, None] ^ np.arange(256)  # [nodes, bytes]
        labels = units[np.minimum(children, len(units) - 1)] & (1 << 31 | 0xFF)
        real = (children < len(units)) & (labels == np.arange(256)) & (np.arange(256) > 0)
        below = []
        for node, byte in np.argwhere(real):
            child = int(children[node, byte])
            key, place = level[node][1] + bytes([byte]), child ^ int(offsets[child])
            if units[child] >> 8 & 1:
                start = int(units[place] & 0x7FFFFFFF)
                found[key] = texts[start : texts.index(b"\0", start)]
            below.append((place, key))
        level = below
    return {key: text for key, text in found.items() if _is_text(key)}


def _is_text(key: bytes) -> bool:
    try:
        return bool(key.decode())
    except UnicodeDecodeError:
        return False
