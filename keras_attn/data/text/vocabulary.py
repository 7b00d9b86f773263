"""Trains, reads and checks WordPiece vocabularies."""

import collections
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence

from keras_attn._checks import optional_module
from keras_attn.data._tensorflow import strings
from keras_attn.data.text.files import Path, read_lines
from keras_attn.data.text.normalization import SPECIAL_TOKENS, normalize, split_words

CONTINUATION = "##"
_CHUNK = 4096  # texts that are split together


def train_vocabulary(
    texts: Iterable[str], size: int, lowercase: bool = True, progress: bool = True
) -> list[str]:
    """Train a WordPiece vocabulary with the package `tokenizers`.

    The same texts give the same vocabulary in every run and in any order. The most frequent
    characters are tokens, at the start of a word and, with ##, inside it; each of these two forms
    has at most half of `size`. The other tokens are merged by frequency.

    Args:
        texts: strings, read once; may be a generator or an open text file.
        size: the number of tokens, special tokens included. A small corpus may give fewer.
        lowercase: as in `BertTokenizer`.
        progress: whether to show the trainer's progress bars on a terminal.

    Returns:
        The tokens: "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]" as ids 0 to 4, then single
        characters, then merged tokens in the order in which they were learned.

    Raises:
        ValueError: `texts` holds no text, or `size` is too small.
        TypeError: `texts` is a single string.
        ImportError: the package `tokenizers` is not installed.

    Example:
    >>> vocabulary = train_vocabulary(["low lower lowest"] * 9, size=20, progress=False)
    >>> vocabulary[5:]
    ['e', 'l', 'o', 'r', 's', 't', 'w', '##e', '##o', '##r', '##s', '##t', '##w', 'lo', 'low']

    Source: Schuster and Nakajima 2012, section 4.
    """
    tokenizers = optional_module("tokenizers", "examples", "keras_attn.data.train_vocabulary")
    if isinstance(texts, str):
        raise TypeError("`texts` must be an iterable of strings, got one string")
    if size <= len(SPECIAL_TOKENS):
        raise ValueError(
            f"`size` must be greater than the {len(SPECIAL_TOKENS)} special tokens, got {size}"
        )
    words = _count_words(texts, lowercase)
    if not words:
        raise ValueError("`texts` must hold at least one word, got none")
    alphabet, continuations = _characters(words, limit=(size - len(SPECIAL_TOKENS)) // 2)

    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=size,
        # The trainer numbers the ## characters in the order of a randomly seeded hash map, and
        # decides between equally frequent merges by these numbers. Naming the characters here makes
        # it deterministic.
        special_tokens=[*SPECIAL_TOKENS, *alphabet, *continuations],
        limit_alphabet=len(alphabet),
        min_frequency=2,
        continuing_subword_prefix=CONTINUATION,
        show_progress=progress,
    )
    tokenizer.train_from_iterator(_repeat(words), trainer)
    ids = tokenizer.get_vocab(with_added_tokens=False)
    return sorted(ids, key=ids.get)


def read_vocabulary(path: Path) -> list[str]:
    """Read a vocab.txt: each line has a token, and its number, from 0, is the id.

    The file is in UTF-8, or in UTF-16 with a byte-order mark. The mark and blank lines at the end
    are left out.

    Raises:
        ValueError: the file cannot be decoded or has a blank line between tokens; the message
            names file and line.
    """
    tokens = [line for _, line in read_lines(path)]
    while tokens and not tokens[-1].strip(" "):
        tokens.pop()
    if "" in tokens:
        raise ValueError(
            f"`vocabulary` must hold a token in each line, got {os.fspath(path)} "
            f"whose line {tokens.index('') + 1} is blank"
        )
    return tokens


def check_vocabulary(vocabulary: Sequence[str], source: str = "a list") -> None:
    """Raise a ValueError unless `vocabulary` has tokens, all different, and the special tokens."""
    if not hasattr(vocabulary, "__len__") or isinstance(vocabulary, set | frozenset | dict):
        raise ValueError(f"`vocabulary` must be a path or a list of tokens, got {vocabulary!r}")
    if not len(vocabulary):
        raise ValueError(f"`vocabulary` must hold tokens, got {source} that is empty")
    invalid = [
        (number, token)
        for number, token in enumerate(vocabulary)
        if not isinstance(token, str) or not token or {"\n", "\r"} & set(token)
    ]
    if invalid:
        raise ValueError(
            f"`vocabulary` must hold strings that are not empty and have no line end, "
            f"got {source} with {invalid[0][1]!r} at index {invalid[0][0]}"
        )
    missing = [token for token in SPECIAL_TOKENS if token not in set(vocabulary)]
    if missing:
        raise ValueError(
            f"`vocabulary` must hold the special tokens {', '.join(SPECIAL_TOKENS)}, "
            f"got {source} without {', '.join(missing)}"
        )
    if len(set(vocabulary)) < len(vocabulary):
        counts = collections.Counter(vocabulary)
        repeated = [token for token, count in counts.items() if count > 1]
        raise ValueError(
            f"`vocabulary` must hold each token once, got {source} "
            f"with {len(repeated)} tokens repeated: {', '.join(map(repr, repeated[:5]))}"
        )


def is_continuation(vocabulary: Sequence[str]) -> list[bool]:
    """Whether each token continues the word of the token before it."""
    return [token.startswith(CONTINUATION) and token != CONTINUATION for token in vocabulary]


def _count_words(texts: Iterable[str], lowercase: bool) -> dict[str, int]:
    """How often the tokenizer finds each word or punctuation mark, in alphabetical order."""
    counts: collections.Counter[bytes] = collections.Counter()
    texts = iter(texts)
    while chunk := list(itertools.islice(texts, _CHUNK)):
        words, _, _ = split_words(normalize(strings("texts", chunk), lowercase))
        counts.update(words.flat_values.numpy().tolist())
    return {
        word.decode(): counts[word]
        for word in sorted(counts)
        if not word.startswith(b"\n")  # a special token in the text
    }


def _repeat(words: dict[str, int], at_most: int = 10_000) -> Iterator[str]:
    for word, count in words.items():
        for done in range(0, count, at_most):
            yield " ".join([word] * min(at_most, count - done))


def _characters(words: dict[str, int], limit: int) -> tuple[list[str], list[str]]:
    """The `limit` most frequent characters: at a word's start, and inside with ##; two lists."""
    counts: collections.Counter[str] = collections.Counter()
    for word, count in words.items():
        for character in _spelling(word):
            counts[character] += count
    kept = sorted(counts, key=lambda token: (-counts[token], token))[:limit]
    first = sorted({token.removeprefix(CONTINUATION)[-1] for token in kept})
    return first, sorted(token for token in kept if len(token) > 1)


def _spelling(word: str) -> Iterator[str]:
    yield word[0]
    for character in word[1:]:
        yield CONTINUATION + character
