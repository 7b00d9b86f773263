"""Splits strings into words as the original BERT does, for the tokenizer and the vocabulary.

Letters: B batch, W words of a row (ragged).
"""

from __future__ import annotations

from keras_attn.data._tensorflow import tf, tf_text

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# A special token in a text is replaced by its name between line ends: cleaning leaves no other line
# end, no token of a vocabulary has one, and the number of bytes stays the same.
_SPECIAL = r"\[(PAD|UNK|CLS|SEP|MASK)\]"
_MARKED = "\n\\1\n"
# Characters that are words of their own in BERT's basic tokenizer: punctuation and Chinese.
_ALONE = (
    r"[!-/:-@\[-`{-~\p{P}"
    r"\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}"
    r"\x{2B740}-\x{2B81F}\x{2B820}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}]"
    r"|\n[A-Za-z]+\n"
)
_SPLIT = " +|" + _ALONE


def marked(token: str, lowercase: bool) -> str:
    """The word that represents a special token."""
    name = token[1:-1]
    return f"\n{name.lower() if lowercase else name}\n"


def normalize(text: tf.Tensor, lowercase: bool) -> tf.Tensor:
    """The original BERT's cleaning, with special tokens marked."""
    text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
    return _fold(tf.strings.regex_replace(_clean(text), _SPECIAL, _MARKED), lowercase)


def split_words(normal: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
    """The words `[B, (W)]` of normalized strings `[B]`, and where each word begins and ends."""
    return tf_text.regex_split_with_offsets(normal, _SPLIT, _ALONE)


def sources(text: tf.Tensor, lowercase: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """For each byte of the normalized strings, flat, the characters of `text` that it comes from.

    Returns:
        The first byte of its character in its string of `text` `[B]`, and the byte after that
        character and the accents that follow it.
    """
    characters, begins = tf.strings.unicode_split_with_offsets(text, "UTF-8")  # [B, (characters)]
    cleaned = _clean(characters.flat_values)
    widths = tf.strings.length(_fold(cleaned, lowercase))
    ends = begins.flat_values + tf.cast(tf.strings.length(characters.flat_values), tf.int64)
    place = tf.range(tf.size(widths, tf.int64))
    first = place == tf.gather(begins.row_starts(), begins.value_rowids())
    accent = (widths == 0) & (cleaned != "") & ~first  # belongs to the character before it
    group = tf.cumsum(tf.cast(~accent, tf.int64)) - 1
    ends = tf.gather(tf.math.segment_max(ends, group), group)
    owner = tf.repeat(place, widths)
    return tf.gather(begins.flat_values, owner), tf.gather(ends, owner)


def _clean(text: tf.Tensor) -> tf.Tensor:
    """White space becomes spaces; control, private-use and invalid characters are deleted."""
    text = tf.strings.regex_replace(text, r"[\t\n\r\p{Z}]", " ")
    return tf.strings.regex_replace(text, r"[\p{Cc}\p{Cf}\p{Cs}\p{Co}\x{FFFD}]", "")


def _fold(text: tf.Tensor, lowercase: bool) -> tf.Tensor:
    if not lowercase:
        return text
    text = tf.strings.lower(text, encoding="utf-8")
    return tf.strings.regex_replace(tf_text.normalize_utf8(text, "NFD"), r"\p{Mn}", "")
