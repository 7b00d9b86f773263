"""Version folders as TF Serving reads them: a child of the base folder whose name is an integer.

Nothing here imports Keras: the test that kills writers starts this module alone, many times.
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


def to_path(argument: str, value: str | os.PathLike) -> Path:
    """The absolute path; raises a ValueError, which names the argument, for what is none."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(f"`{argument}` must be a path, got {value!r}")
    return Path(value).absolute()


@contextlib.contextmanager
def written_beside(base_dir: Path, argument: str = "base_dir") -> Iterator[Path]:
    """A new folder in `base_dir` whose name is no version; gone again if something goes wrong.

    What writers left that were killed is removed.

    Raises:
        ValueError: `base_dir` is a file, is full, or cannot be written to; names the argument.
    """
    existed = base_dir.exists()
    folder = base_dir / f"{_UNFINISHED}{uuid.uuid4().hex}"
    try:
        with contextlib.ExitStack() as stack:
            base_dir.mkdir(parents=True, exist_ok=True)
            with _locked(base_dir, fcntl.LOCK_EX) as alone:
                if alone:  # nobody else can take a folder for left behind that has no lock yet
                    _remove_left_behind(base_dir)
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
    """Gives the finished folder its number, in one step that a server sees whole or not at all."""
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
            # Someone else may have taken the number a moment ago; then the next one is ours.
            if version is not None or error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def reach_disk(folder: Path) -> None:
    """Waits until all that the files hold is on the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())


def check_version(base_dir: Path, version: int) -> None:
    """Raises a ValueError unless `version` is a number that a server knows and that is free."""
    _check_number(version)
    if version in versions(base_dir):
        raise ValueError(f"`version` must be new, got {version}, which {base_dir} has")


def _check_number(version: int) -> None:
    if not _is_whole(version) or not 0 <= version <= _LARGEST:
        raise ValueError(f"`version` must be an integer from 0 to {_LARGEST}, got {version!r}")


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_keep(keep: int | None) -> None:
    """Raises a ValueError unless `keep` is a number of versions, or None."""
    if keep is not None and not (_is_whole(keep) and keep >= 1):
        raise ValueError(f"`keep` must be None or an integer from 1, got {keep!r}")


def prune(base_dir: Path, keep: int, newest: int) -> None:
    """Removes all but the `keep` highest versions; never `newest`."""
    for number in versions(base_dir)[:-keep]:
        if number != newest:
            # Renamed first, so that a server never sees half of a version.
            removed = base_dir / f"{_REMOVED}{uuid.uuid4().hex}"
            with contextlib.suppress(FileNotFoundError):  # another writer may prune as well
                (base_dir / str(number)).rename(removed)
            shutil.rmtree(removed, ignore_errors=True)


def _remove_left_behind(base_dir: Path) -> None:
    """Removes the folders of processes that are gone.

    A writer holds a lock on its folder, which the system takes away with the process.
    """
    for folder in base_dir.iterdir():
        if folder.name.startswith(_REMOVED):
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.name.startswith(_UNFINISHED):
            with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as left_behind:
                if left_behind:
                    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[bool]:
    """Whether the lock is ours; never where the folder is gone or the file system has no locks."""
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
