"""Reads lines, texts and tagged words from text files, compressed or not, with any line ends."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import os
import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import IO, Any

Path = str | os.PathLike
_OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_BROKEN = (EOFError, OSError, lzma.LZMAError, zlib.error)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number of each line, from 1, and its text without the line end.

    A file with a byte-order mark of UTF-16 is read as UTF-16, any other as UTF-8; the mark is not
    part of the text. A file whose name ends in .gz, .bz2 or .xz is decompressed. A line ends with
    a line feed, a carriage return or both.

    Raises:
        ValueError: a line cannot be decoded or has a null character (so has UTF-16 without its
            mark, and UTF-32), or a compressed file is damaged; the message names file and line.
    """
    name, number = os.fspath(path), 0
    try:
        with _open(name) as file:
            for number, line in enumerate(_split(file), start=1):
                yield number, _decode(line, number, name).rstrip("\r\n")
    except _BROKEN as error:
        if getattr(error, "errno", None) is not None:  # the file system's, not gzip's or bz2's
            raise
        raise ValueError(
            f"a compressed file must be complete, got {name}, damaged "
            f"{f'after line {number}' if number else 'from the beginning'} ({error})"
        ) from error


def read_text(path: Path) -> str:
    """The whole text of a file that `read_lines` takes."""
    return "\n".join(text for _, text in read_lines(path))


def read_json(file: pathlib.Path) -> dict:
    """The object in a JSON file.

    Raises:
        ValueError: the file does not exist or holds no JSON object; the message names the file.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a JSON object, got {type(content).__name__}")
    return content


def stem(path: Path) -> str:
    """The name of a file in lower case, without the ending of a compressed file."""
    name = os.fspath(path).lower()
    ending = os.path.splitext(name)[1]
    return name.removesuffix(ending) if ending in _OPEN else name


def _open(name: str) -> Any:
    return _OPEN.get(os.path.splitext(name)[1].lower(), open)(name, "rb")


def _split(file: IO[bytes]) -> Iterator[bytes]:
    """The lines as UTF-8, not yet decoded, so that an error can name the line."""
    for number, line in enumerate(file):
        if number == 0 and line.startswith(_UTF_16):
            # A line end of UTF-16 has two bytes: such a file is read as a whole.
            try:
                text = (line + file.read()).decode("utf-16")
            except UnicodeDecodeError as error:
                raise ValueError(
                    "text must be UTF-8, or UTF-16 with a byte-order mark, "
                    f"got {getattr(file, 'name', 'a file')} that is neither ({error.reason})"
                ) from error
            yield from text.encode().splitlines(keepends=True)
            return
        yield from line.splitlines(keepends=True)


def _decode(line: bytes, number: int, name: str) -> str:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text must be UTF-8, got {name} whose line {number} is not ({error.reason})"
        ) from error
    if "\0" in text:
        raise ValueError(
            "text must be UTF-8, or UTF-16 with a byte-order mark, "
            f"got {name} whose line {number} has a null character"
        )
    return text


_SPACES = re.compile(r"[ \t]+")  # no other white space: a word may contain U+00A0


def read_tags(
    path: Path,
    word_column: int = 0,
    tag_column: int = -1,
    separator: str | None = None,
) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the sentences of a file in the CoNLL format, such as IOB2 tags.

    A line holds a word and its columns; a blank line ends a sentence. Before the first word of a
    sentence, lines that begin with "# " or "-DOCSTART-" are comments.

    Args:
        path: a file in UTF-8, or in UTF-16 with a byte-order mark; a name that ends in .gz, .bz2
            or .xz is decompressed.
        word_column: the number of the column with the word, from 0; negative from the end.
        tag_column: the number of the column with the tag.
        separator: the string between columns; defaults to a tab if the first line with a word has
            one, otherwise to spaces.

    Yields:
        The words and the tags of a sentence, lists of equal length.

    Raises:
        ValueError: a line has another number of columns than the first, lacks one of these two
            columns, or has an empty word or tag; the message names file and line.
    """
    for _, words, tags in numbered_sentences(path, word_column, tag_column, separator):
        yield words, tags


def numbered_sentences(
    path: Path, word_column: int, tag_column: int, separator: str | None
) -> Iterator[tuple[int, list[str], list[str]]]:
    """The sentences that `read_tags` yields, each with the line number of its first word."""
    if separator == "":
        raise ValueError("`separator` must be a string that is not empty, or None, got ''")
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
                f"{place}: `word_column` and `tag_column` must be numbers of its {columns} "
                f"columns, got {word_column} and {tag_column}"
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
