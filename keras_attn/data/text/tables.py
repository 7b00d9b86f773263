"""Reads tables with a header line, and groups their rows into documents."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator

from keras_attn.data.text.files import Path, read_lines, stem

_LONGEST_CELL = 2**31 - 1  # characters; the csv module refuses more than 131,072 by default


def read_table(path: Path) -> dict[str, list[str]]:
    """Read a table whose first line has the names of the columns.

    Blank lines and columns without a name are left out.

    Args:
        path: a file in UTF-8, or in UTF-16 with a byte-order mark; comma-separated, with quotes as
            spreadsheets write them, if its name ends in .csv, otherwise tab-separated. If .gz, .bz2
            or .xz follows, it is decompressed.

    Returns:
        The cells of each column, by its name.

    Raises:
        ValueError: the file is empty or cannot be decoded, two columns have the same name, or a
            line has more or fewer cells than the first; the message names file and line.
    """
    names, rows = read_numbered(path)
    columns = list(zip(*(cells for _, cells in rows), strict=True)) or [()] * len(names)
    return {name: list(column) for name, column in zip(names, columns, strict=True) if name}


def read_numbered(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of a table's columns, and its rows: the line number and the cells of each."""
    name = os.fspath(path)
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        lines = list(_cells(path))
    finally:
        csv.field_size_limit(limit)
    if not lines:
        raise ValueError(f"`path` must be a table with a header line, got the empty file {name}")
    (_, names), *rows = lines
    repeated = [column for column, count in Counter(names).items() if column and count > 1]
    if repeated:
        raise ValueError(
            f"`path` must name each column once, got {name} with {names.count(repeated[0])} "
            f"columns {repeated[0]!r}"
        )
    if len(names) > 1:  # a line of spaces is blank
        rows = [(number, cells) for number, cells in rows if len(cells) > 1 or cells[0].strip()]
    for number, cells in rows:
        if len(cells) != len(names):
            raise ValueError(
                f"`path` must have {len(names)} columns in every line, "
                f"got {name} whose line {number} has {len(cells)}"
            )
    return names, rows


def table_documents(
    table: dict[str, list[str]], *columns: str, by: str = "document"
) -> dict[str, list]:
    """Group the rows of a table into documents.

    Args:
        table: from `read_table`.
        columns: one name for single paragraphs, several for aligned ones, such as "en", "de" for
            translation pairs. Rows with an empty cell in one of them are left out.
        by: the column with the name of the document.

    Returns:
        The documents by name, in order: a list of strings each, or, for several columns, of
        tuples of strings. Documents without a row are left out.

    Raises:
        ValueError: the table lacks one of the columns.

    Example:
    >>> table = {"document": ["p", "p", "q"], "en": ["a", "b", "c"], "de": ["A", "", "C"]}
    >>> table_documents(table, "en")
    {'p': ['a', 'b'], 'q': ['c']}
    >>> table_documents(table, "en", "de")
    {'p': [('a', 'A')], 'q': [('c', 'C')]}
    """
    for name in (by, *columns):
        if name not in table:
            raise ValueError(f"`columns` must be among {', '.join(table)}, got {name!r}")
    documents: dict[str, list] = {}
    for document, *cells in zip(table[by], *(table[name] for name in columns), strict=True):
        if all(cells):
            row = cells[0] if len(columns) == 1 else tuple(cells)
            documents.setdefault(document, []).append(row)
    return documents


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number and the cells of each line that is not blank; quoted cells may have line ends."""
    if not stem(path).endswith(".csv"):
        for number, line in read_lines(path):
            if line.strip(" "):
                yield number, line.split("\t")
        return
    reader = csv.reader((f"{line}\n" for _, line in read_lines(path)), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(
            f"`path` must be a table, got {os.fspath(path)} "
            f"whose line {reader.line_num} is not ({error})"
        ) from error
