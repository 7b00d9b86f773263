"""Version folders as TF Serving reads them: a child of the base folder whose name is an integer."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def versions(base_dir: Path) -> list[int]:
    """The versions that a server would see, ascending."""
    if not base_dir.is_dir():
        return []
    return sorted(
        int(child.name) for child in base_dir.iterdir() if child.name.isdecimal() and child.is_dir()
    )


@contextlib.contextmanager
def written_beside(base_dir: Path) -> Iterator[Path]:
    """A new folder in `base_dir` whose name is no version; gone again if something goes wrong.

    Raises:
        ValueError: `base_dir` is a file, or cannot be written to.
    """
    existed = base_dir.exists()
    folder = base_dir / f".unfinished-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ValueError(
            f"`base_dir` must be a writable folder, got {base_dir}: {error}"
        ) from error
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):
                base_dir.rmdir()
        raise


def commit(folder: Path, version: int | None) -> Path:
    """Gives the finished folder its number, in one step that a server sees whole or not at all."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
    while True:
        present = versions(folder.parent)
        number = version if version is not None else max(present, default=0) + 1
        check_version(folder.parent, number)
        target = folder.with_name(str(number))
        try:
            return folder.rename(target)
        except OSError:
            # Someone else may have taken the number a moment ago; then the next one is ours.
            if version is not None or not target.exists():
                raise


def check_version(base_dir: Path, version: int) -> None:
    """Raises a ValueError unless `version` is a number that is free."""
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise ValueError(f"`version` must be an integer from 0, got {version!r}")
    if version in versions(base_dir):
        raise ValueError(f"`version` must be new, got {version}, which {base_dir} has")


def prune(base_dir: Path, keep: int, newest: int) -> None:
    """Removes all but the `keep` highest versions; never `newest`."""
    for number in versions(base_dir)[:-keep]:
        if number != newest:
            # Renamed first, so that a server never sees half of a version.
            doomed = base_dir / f".removed-{uuid.uuid4().hex}"
            (base_dir / str(number)).rename(doomed)
            shutil.rmtree(doomed)
