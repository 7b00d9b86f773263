"""Reads files as documents, and tokenizes documents. A document is a list of paragraphs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from keras_attn._checks import check_count
from keras_attn.data._tensorflow import tf
from keras_attn.data.text.files import Path, read_lines
from keras_attn.data.text.tokenizer import BertTokenizer

Item = TypeVar("Item")


def read_documents(paths: Path | Sequence[Path]) -> list[list[str]]:
    """Read text. Each line is a paragraph; a blank line or a new file begins a new document.

    Args:
        paths: a file, or several, in UTF-8, or in UTF-16 with a byte-order mark; a name that ends
            in .gz, .bz2 or .xz is decompressed.

    Returns:
        The documents in order, each a list of paragraphs without surrounding white space.

    Raises:
        ValueError: a file holds no text or cannot be decoded; the message names file and line.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    return [document for path in paths for document in stream_documents(path)]


def stream_documents(path: Path, longest: int | None = None) -> Iterator[list[str]]:
    """Read a file as `read_documents` does, one document in memory at a time.

    Args:
        path: the file.
        longest: the number of characters after which a document ends even without a blank line;
            None for no limit.

    Yields:
        The documents in order.

    Raises:
        ValueError: as `read_documents`, when the faulty line is reached.
    """
    if longest is not None:
        check_count("longest", longest)
    paragraphs: list[str] = []
    size, empty = 0, True
    for _, line in read_lines(path):
        text = line.strip()
        if text:
            empty = False
            paragraphs.append(text)
            size += len(text)
        if paragraphs and (not text or (longest is not None and size >= longest)):
            yield paragraphs
            paragraphs, size = [], 0
    if paragraphs:
        yield paragraphs
    if empty:
        raise ValueError(f"`paths` must be files with text, got {os.fspath(path)} without any")


def split_documents(
    documents: Sequence[Item], held_out: float = 0.05, seed: int = 0
) -> tuple[list[Item], list[Item]]:
    """Split at random into documents for training and documents never seen in it.

    Args:
        documents: any items.
        held_out: the fraction to hold out; at least one item on each side.
        seed: an integer; the same seed gives the same split.

    Returns:
        The training items and the held-out items, both in the order that they came in.

    Raises:
        ValueError: `held_out` is not between 0 and 1 or there are fewer than two items.

    Example:
    >>> training, held_out = split_documents(list("abcdef"), held_out=1 / 3, seed=7)
    >>> len(training), len(held_out), sorted(training + held_out) == list("abcdef")
    (4, 2, True)
    """
    if not 0 < held_out < 1:
        raise ValueError(f"`held_out` must be between 0 and 1, got {held_out}")
    total = len(documents)
    if total < 2:
        raise ValueError(f"`documents` must hold two documents or more, got {total}")
    count = min(max(1, round(total * held_out)), total - 1)
    chosen = set(np.random.default_rng(seed).permutation(total)[:count].tolist())
    return (
        [document for index, document in enumerate(documents) if index not in chosen],
        [document for index, document in enumerate(documents) if index in chosen],
    )


def tokenize_documents(
    documents: Sequence[Sequence[str]], tokenizer: BertTokenizer
) -> tf.RaggedTensor:
    """The ids of all documents: int32, ragged [documents, (paragraphs), (tokens)].

    Paragraphs that give no token (nothing but control characters) are left out.
    """
    paragraphs = [paragraph for document in documents for paragraph in document]
    # In chunks: the strings on the way to the ids take many times the memory of the ids.
    chunks = [
        tokenizer(paragraphs[start : start + 4096]) for start in range(0, len(paragraphs), 4096)
    ]
    ids = tf.concat(chunks, axis=0)
    full = ids.row_lengths() > 0
    documents = tf.RaggedTensor.from_row_lengths(full, [len(document) for document in documents])
    kept = tf.reduce_sum(tf.cast(documents, tf.int64), axis=1)
    return tf.RaggedTensor.from_row_lengths(tf.ragged.boolean_mask(ids, full), kept)
