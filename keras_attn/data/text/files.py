"""Lines and whole texts from files as users have them: compressed or not, with any line ends."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
import zlib
from collections.abc import Iterator
from typing import IO

Path = str | os.PathLike
_OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_BROKEN = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the number of each line, from 1, and its text without the line end.

    A byte-order mark is not part of the text; with one of UTF-16 the file is read as UTF-16,
    otherwise as UTF-8. A name that ends in .gz, .bz2 or .xz is decompressed.

    Raises:
        ValueError: a line that cannot be decoded or a damaged compressed file; the message names
            file and line.
    """
    name, number = os.fspath(path), 0
    try:
        with _open(name) as file:
            for number, line in enumerate(_split(file), start=1):
                yield number, _decode(line, number, name).rstrip("\r\n")
    except _BROKEN as error:
        raise ValueError(
            f"a compressed file must be whole, got {name}, damaged after line {number} ({error})"
        ) from error


def read_text(path: Path) -> str:
    """The whole text of a file that `read_lines` takes."""
    return "\n".join(text for _, text in read_lines(path))


def stem(path: Path) -> str:
    """The name of a file in lower case, without the ending of a compressed file."""
    name = os.fspath(path).lower()
    ending = os.path.splitext(name)[1]
    return name.removesuffix(ending) if ending in _OPEN else name


def _open(name: str) -> IO[bytes]:
    return _OPEN.get(os.path.splitext(name)[1].lower(), open)(name, "rb")


def _split(file: IO[bytes]) -> Iterator[bytes]:
    """The lines as UTF-8, each decoded for itself later so that an error can name it."""
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
            yield from (f"{part}\n".encode() for part in text.removesuffix("\n").split("\n"))
            return
        yield line


def _decode(line: bytes, number: int, name: str) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text must be UTF-8, got {name} whose line {number} is not ({error.reason})"
        ) from error
