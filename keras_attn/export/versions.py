"""Version folders of TF Serving: the children of the base folder whose names are integers.

Nothing here imports Keras: a test starts this module alone, in many processes that it kills.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import numbers
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

_UNFINISHED, _REMOVED = ".unfinished-", ".removed-"
_LARGEST = 2**63 - 1  # a server reads versions as int64


def versions(base_dir: Path) -> list[int]:
    """The versions that a server would see, ascending."""
    if not base_dir.is_dir():
        return []
    numbers = [
        int(child.name) for child in base_dir.iterdir() if child.name.isdecimal() and child.is_dir()
    ]
    return sorted(number for number in numbers if number <= _LARGEST)


@contextlib.contextmanager
def written_beside(base_dir: Path, argument: str = "base_dir") -> Iterator[Path]:
    """A new temporary folder in `base_dir`, which is removed if an error occurs.

    Folders that killed processes have left are removed too.

    Raises:
        ValueError: `base_dir` is a file, is full, or cannot be written to; the message names the
            argument.
    """
    existed = base_dir.exists()
    folder = base_dir / f"{_UNFINISHED}{uuid.uuid4().hex}"
    try:
        with contextlib.ExitStack() as stack:
            base_dir.mkdir(parents=True, exist_ok=True)
            with _locked(base_dir, fcntl.LOCK_EX) as alone:
                # Under this lock no other process has a new folder that is not locked yet.
                if alone:
                    _remove_abandoned(base_dir)
                folder.mkdir()
                stack.enter_context(_locked(folder, fcntl.LOCK_EX))
            yield folder
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):
                base_dir.rmdir()
        if isinstance(error, OSError):
            raise ValueError(
                f"`{argument}` must be a writable folder with space left, got {base_dir}: {error}"
            ) from error
        raise


def commit(folder: Path, version: int | None) -> Path:
    """Rename the complete folder to its number, in one atomic step."""
    reach_disk(folder)
    while True:
        number = version
        if number is None:
            number = max(versions(folder.parent), default=0) + 1
            _check_number(number)
        else:
            check_version(folder.parent, number)
        try:
            return folder.rename(folder.with_name(str(number)))
        except OSError as error:
            # If another process has just taken the number, try the next one.
            if version is not None or error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def reach_disk(folder: Path) -> None:
    """Wait until the content of all files is on the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())


def check_version(base_dir: Path, version: int) -> None:
    """Raise a ValueError unless `version` is a valid number that is not used yet."""
    _check_number(version)
    if version in versions(base_dir):
        raise ValueError(f"`version` must be new, got {version}, which exists in {base_dir}")


def _check_number(version: int) -> None:
    if not _is_whole(version) or not 0 <= version <= _LARGEST:
        raise ValueError(f"`version` must be an integer from 0 to {_LARGEST}, got {version!r}")


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_keep(keep: int | None) -> None:
    """Raise a ValueError unless `keep` is a number of versions, or None."""
    if keep is not None and not (_is_whole(keep) and keep >= 1):
        raise ValueError(f"`keep` must be None or an integer from 1, got {keep!r}")


def prune(base_dir: Path, keep: int, newest: int) -> None:
    """Remove all versions but the `keep` highest ones and `newest`."""
    for number in versions(base_dir)[:-keep]:
        if number != newest:
            # Renamed first, so that a server never sees an incomplete version.
            removed = base_dir / f"{_REMOVED}{uuid.uuid4().hex}"
            with contextlib.suppress(FileNotFoundError):  # another writer may prune as well
                (base_dir / str(number)).rename(removed)
            shutil.rmtree(removed, ignore_errors=True)


def _remove_abandoned(base_dir: Path) -> None:
    """Remove the folders of processes that have ended.

    A process holds a lock on its folder; the system releases it when the process ends.
    """
    for folder in base_dir.iterdir():
        if folder.name.startswith(_REMOVED):
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.name.startswith(_UNFINISHED):
            with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as abandoned:
                if abandoned:
                    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[bool]:
    """Whether the lock was acquired; not if the folder is gone or the file system has no locks."""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, how)
        except OSError:
            held = False
        else:
            held = True
        yield held
