"""Reads the examples of a task from files, and checks them before training begins.

A row that cannot be used is skipped and reported with its file and line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from keras_attn.data.text import tables
from keras_attn.data.text.files import Path, numbered_sentences, read_text

Row = tuple
_TAG = re.compile(r"O|[BIES]-.+")
_NUMBER = "{}, line {}".format


@dataclasses.dataclass(frozen=True)
class Examples:
    """The rows of one or several files, the place of each row, and the rows that were skipped.

    Args:
        rows: the examples, a tuple each.
        places: the place of each row, such as "train.csv, line 7".
        skipped: the place of each skipped row, and the reason.
        held_out: the number of rows of the same files that a split has held out.
    """

    rows: list[Row]
    places: list[str]
    skipped: list[str] = dataclasses.field(default_factory=list)
    held_out: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def report(self) -> str:
        """One line about the rows that were skipped; "" if there are none."""
        if not self.skipped:
            return ""
        total = len(self.rows) + len(self.skipped) + self.held_out
        return f"skipped {len(self.skipped)} of {total} rows, the first: {self.skipped[0]}"

    def without(self, fault: Callable[[Row], str | None]) -> Examples:
        """The rows for which `fault` returns None; it gives the reason to skip any other."""
        rows, places, skipped = [], [], list(self.skipped)
        for row, place in zip(self.rows, self.places, strict=True):
            reason = fault(row)
            if reason is None:
                rows.append(row)
                places.append(place)
            else:
                skipped.append(f"{place}: {reason}")
        return Examples(rows, places, skipped, self.held_out)

    def split(
        self,
        held_out: float = 0.2,
        seed: int = 0,
        labels: Callable[[Row], Iterable[str]] | None = None,
        group: Callable[[Row], Hashable] | None = None,
    ) -> tuple[Examples, Examples]:
        """Splits at random into training rows and held-out rows.

        Args:
            held_out: the fraction of groups to hold out, at least one group on each side.
            seed: an integer; the same seed gives the same split.
            labels: a function from a row to its labels. A row is not held out if one of its labels
                would then be in no training row.
            group: a function from a row to its group, such as the text that several questions are
                about. Rows of one group stay together; by default each row is a group.

        Raises:
            ValueError: there are fewer than two groups, or no row can be held out.
        """
        keys = [group(row) if group else number for number, row in enumerate(self.rows)]
        groups = list(dict.fromkeys(keys))
        if len(groups) < 2:
            raise ValueError(
                f"a split needs two examples or more, got {len(groups)}{self._where()}"
            )
        count = min(max(1, round(len(groups) * held_out)), len(groups) - 1)
        drawn = np.random.default_rng(seed).permutation(len(groups))[:count]
        chosen = {groups[number] for number in drawn}
        if labels is not None:
            known: set[str] = set()
            members: dict[Hashable, set[str]] = {}
            for key, row in zip(keys, self.rows, strict=True):
                found = set(labels(row))
                (members.setdefault(key, set()) if key in chosen else known).update(found)
            for key, found in members.items():
                if not found <= known:
                    chosen.remove(key)
                    known |= found
        if not chosen:
            raise ValueError(
                "a split needs a label that two examples or more have, "
                f"got {len(groups)} examples{self._where()}"
            )
        sides = [[i for i, key in enumerate(keys) if (key in chosen) == side] for side in (0, 1)]
        train, held = (
            Examples([self.rows[i] for i in side], [self.places[i] for i in side]) for side in sides
        )
        return dataclasses.replace(train, skipped=self.skipped, held_out=len(held)), held

    def _where(self) -> str:
        where = f" in {self.places[0].rsplit(', ', 1)[0]}" if self.places else ""
        report = self.report()
        return where + (f" ({report})" if report else "")


def read_examples(
    files: Path | Sequence[Path],
    read: Callable[[Path], Examples],
    *,
    labels: Callable[[Row], Iterable[str]] | None = None,
    group: Callable[[Row], Hashable] | None = None,
    held_out: float = 0.2,
    seed: int = 0,
) -> tuple[Examples, Examples]:
    """Reads the training examples and the held-out examples, and checks them.

    Args:
        files: one file, which is split, or two: the second is held out.
        read: a function that reads a file: `read_squad`, or one that calls `read_rows`.
        labels: a function from a row to its labels. Held-out rows with a label that no training
            row has are skipped.
        group: as in `Examples.split`.
        held_out: the fraction of a single file to hold out.
        seed: an integer, the seed of that split.

    Returns:
        The training `Examples` and the held-out `Examples`, each with at least one row.

    Raises:
        ValueError: more than two files, fewer than two training rows, no held-out row, or, with
            `labels`, fewer than two labels.

    Example:
    >>> rows = Examples([("good", "yes"), ("bad", "no"), ("fine", "yes")], ["a", "b", "c"])
    >>> train, held_out = read_examples("a.csv", lambda _: rows, labels=lambda row: row[1:])
    >>> len(train), held_out.rows[0][1]
    (2, 'yes')
    """
    files = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    if not 1 <= len(files) <= 2:
        raise ValueError(f"`files` must be one file or two, got {len(files)}")
    train, *second = (read(file) for file in files)
    known = sorted({label for row in train.rows for label in labels(row)}) if labels else []
    if labels is not None and len(known) < 2:
        raise ValueError(
            f"`files` must have two labels or more, got {', '.join(known) or 'none'} in {files[0]}"
        )
    if second:

        def fault(row: Row) -> str | None:
            unknown = sorted(set(labels(row)) - set(known)) if labels else []
            return f"{unknown[0]!r} is not among {_some(known)} of {files[0]}" if unknown else None

        held = second[0].without(fault)
    else:
        train, held = train.split(held_out, seed, labels, group)
    for examples, least, file in ((train, 2, files[0]), (held, 1, files[-1])):
        if len(examples) < least:
            report = f" ({examples.report()})" if examples.skipped else ""
            raise ValueError(
                f"`files` must hold at least two training examples and one held-out example, "
                f"got {len(examples)} of {os.fspath(file)}{report}"
            )
    return train, held


def read_rows(path: Path, *columns: str) -> Examples:
    """Reads columns of a table in the format of `read_table`; rows with an empty cell are skipped.

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
    """Reads a table with the columns prompt, choice_0, choice_1, ... and answer.

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
    """Reads words tagged with entities; the arguments are those of `read_tags`.

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
    """Reads a file in the format of SQuAD 1.1 or 2.0.

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


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" and so on" if len(names) > 5 else "")
