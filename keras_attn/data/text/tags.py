"""Files of words and tags, one word a line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from keras_attn.data.text.files import Path, read_lines

_SPACES = re.compile(r"[ \t]+")  # and no other white space: a word may hold U+00A0


def read_tags(
    path: Path,
    word_column: int = 0,
    tag_column: int = -1,
    separator: str | None = None,
) -> Iterator[tuple[list[str], list[str]]]:
    """Reads sentences from a file in the CoNLL style, such as IOB2, one after the other.

    A line holds a word and its columns; a blank line ends a sentence. Before the first word of a
    sentence, lines that begin with "# " or "-DOCSTART-" are comments.

    Args:
        path: a UTF-8 file; a name that ends in .gz, .bz2 or .xz is decompressed.
        word_column: where the word stands, counted from 0, or from the end if negative.
        tag_column: where the tag stands.
        separator: between columns; defaults to a tab if the first line with a word has one,
            otherwise to spaces.

    Yields:
        The words and the tags of a sentence, lists of equal length.

    Raises:
        ValueError: a line with another number of columns than the first, or without these two, or
            with an empty word or tag; the message names file and line.
    """
    for _, words, tags in read_numbered(path, word_column, tag_column, separator):
        yield words, tags


def read_numbered(
    path: Path, word_column: int, tag_column: int, separator: str | None
) -> Iterator[tuple[int, list[str], list[str]]]:
    """The sentences of `read_tags`, each with the number of the line of its first word."""
    start, words, tags = 0, [], []
    columns = None
    for number, line in read_lines(path):
        if not words and line.startswith(("# ", "-DOCSTART-")):
            continue
        if not line.strip():
            if words:
                yield start, words, tags
            words, tags = [], []
            continue
        if columns is None and separator is None and "\t" in line:
            separator = "\t"
        fields = _fields(line, separator)
        columns = columns or len(fields)
        place = f"{os.fspath(path)}, line {number}"
        if len(fields) != columns or columns < 2:
            raise ValueError(
                f"{place}: every line must have {max(columns, 2)} columns, "
                f"got {len(fields)}: {line!r}"
            )
        if not all(-columns <= column < columns for column in (word_column, tag_column)):
            raise ValueError(
                f"{place}: `word_column` and `tag_column` must be among {columns} columns, "
                f"got {word_column} and {tag_column}"
            )
        word, tag = fields[word_column], fields[tag_column]
        if not word or not tag:
            raise ValueError(f"{place}: a line must have a word and a tag, got {line!r}")
        start = start if words else number
        words.append(word)
        tags.append(tag)
    if words:
        yield start, words, tags


def _fields(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return _SPACES.split(line.strip(" \t"))
    return [field.strip(" ") for field in line.split(separator)]
