"""Readers of the files of tasks: columns of tables, choices, tagged words, questions of SQuAD.

A row that cannot be used is skipped and reported with its file and line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from typing import Any

from keras_attn.data.text import tables
from keras_attn.data.text.examples import Examples, Row
from keras_attn.data.text.files import Path, numbered_sentences, read_text

_TAG = re.compile(r"O|[BIES]-.+")
_NUMBER = "{}, line {}".format


def read_rows(path: Path, *columns: str) -> Examples:
    """Read columns of a table in the format of `read_table`; rows with an empty cell are skipped.

    Args:
        path: the file.
        columns: the names of the columns, such as "text", "label".

    Returns:
        `Examples` whose rows are tuples of strings, a cell for each of `columns`.

    Raises:
        ValueError: no column is given, a column is missing, no row is left, or as `read_table`.
    """
    if not columns:
        raise ValueError("`columns` must be names of columns, got none")
    names, numbered = tables.read_numbered(path)
    missing = [name for name in columns if name not in names]
    if missing:
        raise ValueError(
            f"{os.fspath(path)} must have the columns {', '.join(columns)}, got {', '.join(names)}"
        )
    at = [names.index(name) for name in columns]
    rows = [tuple(cells[i] for i in at) for _, cells in numbered]
    places = [_NUMBER(os.fspath(path), number) for number, _ in numbered]

    def fault(row: Row) -> str | None:
        empty = [name for name, cell in zip(columns, row, strict=True) if not cell.strip()]
        return f"{empty[0]!r} is empty" if empty else None

    return _some_left(path, Examples(rows, places).without(fault))


def read_choices(path: Path) -> Examples:
    """Read a table with the columns prompt, choice_0, choice_1, ... and answer.

    Returns:
        `Examples` whose rows are a prompt, a list of choices and the number of the right choice. A
        row with an empty choice, or whose answer is not the number of a choice, is skipped.

    Raises:
        ValueError: as `read_rows`, or there are fewer than two choices.
    """
    names = [name for name in tables.read_numbered(path)[0] if re.fullmatch(r"choice_\d+", name)]
    if len(names) < 2:
        raise ValueError(
            f"{os.fspath(path)} must have the columns prompt, answer, choice_0, choice_1 and so "
            f"on, got {len(names)} columns of choices"
        )
    names.sort(key=lambda name: int(name.removeprefix("choice_")))
    read = read_rows(path, "prompt", "answer", *names)
    right = [str(number) for number in range(len(names))]
    read = read.without(
        lambda row: (
            None
            if row[1].strip() in right
            else f"'answer' must be from 0 to {right[-1]}, got {row[1]!r}"
        )
    )
    rows = [(prompt, choices, int(answer)) for prompt, answer, *choices in read.rows]
    return _some_left(path, dataclasses.replace(read, rows=rows))


def read_entities(
    path: Path, word_column: int = 0, tag_column: int = -1, separator: str | None = None
) -> Examples:
    """Read words tagged with entities; the arguments are those of `read_tags`.

    Returns:
        `Examples` whose rows are a list of words and a list of tags. A tag is O, or B-, I-, E- or
        S- followed by the type of an entity.

    Raises:
        ValueError: a tag of another scheme, no sentence, or as `read_tags`; the message names file
            and line.
    """
    rows, places = [], []
    for number, words, row_tags in numbered_sentences(path, word_column, tag_column, separator):
        place = _NUMBER(os.fspath(path), number)
        other = [tag for tag in row_tags if not _TAG.fullmatch(tag)]
        if other:
            raise ValueError(
                f"{place}: a tag must be O, or B-, I-, E- or S- and a type, got {other[0]!r}"
            )
        rows.append((words, row_tags))
        places.append(place)
    return _some_left(path, Examples(rows, places))


def read_squad(path: Path) -> Examples:
    """Read a file in the format of SQuAD 1.1 or 2.0.

    Returns:
        `Examples` whose rows are a question, its context, a list of answers (empty if there is
        none) and the index of the character in the context at which the first of them starts (0 if
        there is none). A question is skipped if it has no text, or if it has answers and none of
        them is in the context at its `answer_start`.

    Raises:
        ValueError: the file is not JSON of this format, or no question is left.
    """
    name = os.fspath(path)
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"a SQuAD file must be JSON, got {name} whose line {error.lineno} is not ({error.msg})"
        ) from error
    read = Examples([], [])
    for a, article in enumerate(_list(content, "data", name)):
        at = f"{name}, data[{a}]"
        for p, paragraph in enumerate(_list(article, "paragraphs", at)):
            at = f"{name}, data[{a}].paragraphs[{p}]"
            for q, question in enumerate(_list(paragraph, "qas", at)):
                place = f"{at}.qas[{q}]"
                row = _question(paragraph.get("context"), question)
                if isinstance(row, str):
                    read.skipped.append(f"{place}: {row}")
                else:
                    read.rows.append(row)
                    read.places.append(place)
    return _some_left(path, read)


def _question(context: Any, question: Any) -> Row | str:
    """A row, or the reason why there is none."""
    if not isinstance(question, dict):
        return f"a question must be an object, got {question!r}"
    for name, text in (("question", question.get("question")), ("context", context)):
        if not isinstance(text, str) or not text.strip():
            return f"`{name}` must be text, got {text!r}"
    asked = question["question"]
    if question.get("is_impossible") is True:
        return asked, context, [], 0
    answers = question.get("answers")
    if not isinstance(answers, list):
        return f"`answers` must be a list, got {answers!r}"
    if not answers:
        return asked, context, [], 0
    right, other = [], []
    for answer in answers:
        text, start = (
            (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (0, 0)
        )
        if not isinstance(text, str) or not text.strip():
            return f"an answer must be text, got {answer!r}"
        at_place = type(start) is int and start >= 0 and context.startswith(text, start)
        (right if at_place else other).append((text, start))
    if not right:
        text, start = other[0]
        return f"`answer_start` must be the place of {text!r} in `context`, got {start!r}"
    return asked, context, [text for text, _ in (*right, *other)], right[0][1]


def _list(parent: Any, name: str, place: str) -> list:
    if not isinstance(parent, dict) or not isinstance(parent.get(name), list):
        got = f"{', '.join(parent) or 'none'}" if isinstance(parent, dict) else f"{parent!r:.40}"
        raise ValueError(f"a SQuAD file must have a list `{name}` in {place}, got {got}")
    return parent[name]


def _some_left(path: Path, examples: Examples) -> Examples:
    if not examples.rows:
        report = f" ({examples.report()})" if examples.skipped else ""
        raise ValueError(f"a file must hold examples, got {os.fspath(path)} without any{report}")
    return examples
