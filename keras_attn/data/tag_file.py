"""Files of words and tags, one word a line."""

from __future__ import annotations

import os
from collections.abc import Iterator


def read_tags(
    path: str | os.PathLike,
    word_column: int = 0,
    tag_column: int = -1,
    separator: str | None = None,
) -> Iterator[tuple[list[str], list[str]]]:
    """Reads sentences from a file in the CoNLL style, such as IOB2, one after the other.

    A line holds a word and its columns; an empty line ends a sentence. Lines that begin with "# "
    or "-DOCSTART-" are left out.

    Args:
        path: of the file, UTF-8.
        word_column: where the word stands, counted from 0, or from the end if negative.
        tag_column: where the tag stands.
        separator: between columns; any white space unless given.

    Yields:
        The words and the tags of a sentence, lists of one length.

    Raises:
        ValueError: a line with another number of columns than the first, or without these two; it
            is named.
    """
    words: list[str] = []
    tags: list[str] = []
    columns = None
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            line = line.rstrip("\r\n")
            if line.startswith(("# ", "-DOCSTART-")):
                continue
            if not line.strip():
                if words:
                    yield words, tags
                words, tags = [], []
                continue
            fields = line.split(separator)
            columns = columns or len(fields)
            if len(fields) != columns or columns < 2:
                raise ValueError(
                    f"{os.fspath(path)}, line {number}: every line must have {max(columns, 2)} "
                    f"columns, got {len(fields)}: {line!r}"
                )
            words.append(fields[word_column])
            tags.append(fields[tag_column])
    if words:
        yield words, tags
