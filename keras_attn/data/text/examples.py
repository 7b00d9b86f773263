"""The examples of a task, split into training and held-out rows and checked before training."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from keras_attn.data.text.files import Path

Row = tuple


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
        """Split at random into training rows and held-out rows.

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
    """Read the training examples and the held-out examples, and check them.

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


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" and so on" if len(names) > 5 else "")
