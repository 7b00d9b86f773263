"""Variables and a record in one file, written atomically; damage is found when it is read.

The file is numpy's .npz, a zip archive: it has a checksum of every array, and needs no library but
numpy; Orbax would be a second format, for JAX alone. If variables are split over several processes,
each process writes what it owns into its own file, `<name>.part-<i>-of-<n>`. The file itself,
written last by the first process, has the rest and a checksum of each of these. A variable that is
split over devices is stored in parts, each named by its range: `variable_3[0:12,6:12]`.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

from keras_attn._typing import Config
from keras_attn.backend import Part

_GENERATOR = "generator_"
_FAILED = -1  # in place of a checksum
_UNFINISHED = ".step-unfinished"  # the name of a file that is not complete yet


def write(
    path: pathlib.Path,
    variables: list,
    values: list[dict[Part, np.ndarray]],
    generators: dict,
    record: dict,
    index: int = 0,
    count: int = 1,
    agree: Callable[[int], list[int]] = lambda number: [number],
) -> None:
    """Write all to `path`; it is there when all is written, and not before.

    Args:
        path: path of the file.
        variables: what is described.
        values: what this process writes of each, from `backend.owned_parts`.
        generators: arrays by name, the state of random generators.
        record: anything that JSON can hold.
        index: which of the processes that write this one is.
        count: how many write.
        agree: gives the numbers that all of them call it with.

    Raises:
        ValueError: another process could not write its part.
    """
    arrays = {
        f"variable_{i}{_place(part)}": _portable(array)
        for i, parts in enumerate(values)
        for part, array in parts.items()
    }
    header: Config = {"record": record, "variables": _describe(variables)}
    if count > 1:
        part_file = _part_file(path, index, count)
        try:
            _write(part_file, arrays, f"{_UNFINISHED}.part-{index}-of-{count}")
            digest = _digest(part_file)
        except Exception:
            agree(_FAILED)
            raise
        header["parts"] = agree(digest)  # all are written when all agree
        if _FAILED in header["parts"]:
            raise ValueError(
                f"process {header['parts'].index(_FAILED)} could not write its part of {path}: "
                "its error says why"
            )
        arrays = {}
    if index == 0:
        content = {
            "header": np.frombuffer(json.dumps(header, default=_plain).encode(), "uint8"),
            **arrays,
            **{_GENERATOR + name: state for name, state in generators.items()},
        }
        _write(path, content, _UNFINISHED)


@dataclasses.dataclass(frozen=True)
class Saved:
    """The record of a file, and where each part of each variable is stored."""

    path: pathlib.Path
    record: dict
    generators: dict
    described: list[dict]
    files: list[pathlib.Path]
    places: list[dict[Part, tuple[pathlib.Path, str]]]

    def compare(self, variables: list) -> None:
        """Raise ValueError unless the values are those of these variables."""
        if self.described != _describe(variables):
            raise ValueError(
                f"{self.path} does not fit this model and optimizer: "
                f"{_difference(variables, self.described)}"
            )

    def values(self, needed: list[list[Part]]) -> list[dict[Part, np.ndarray]]:
        """The parts of each variable that are needed; nothing else is read.

        Raises:
            ValueError: a file is damaged, or lacks a part.
        """
        with contextlib.ExitStack() as stack:
            archives = {path: stack.enter_context(_opened(path)) for path in self.files}
            return [self._parts(i, parts, archives) for i, parts in enumerate(needed)]

    def _parts(self, i: int, needed: list[Part], archives: dict) -> dict[Part, np.ndarray]:
        shape, dtype = self.described[i]["shape"], np.dtype(self.described[i]["dtype"])

        @functools.cache  # several devices may need it
        def read(path: pathlib.Path, name: str) -> np.ndarray:
            with _damage_in(path):
                return archives[path][name].view(dtype)

        found = {}
        for part in needed:
            bounds = _bounds(part, shape)
            value, filled = np.empty([end - start for start, end in bounds], dtype), 0
            for stored, place in self.places[i].items():
                # Of the whole, on each axis: where the two meet, and where they begin.
                meet = [
                    (max(a, c), min(b, d), a, c)
                    for (a, b), (c, d) in zip(bounds, _bounds(stored, shape), strict=True)
                ]
                if all(start < end for start, end, _, _ in meet):
                    here = tuple(slice(start - a, end - a) for start, end, a, _ in meet)
                    there = tuple(slice(start - c, end - c) for start, end, _, c in meet)
                    value[here] = read(*place)[there]
                    filled += value[here].size
            if filled < value.size:
                raise ValueError(
                    f"{self.path} is damaged, or not a training checkpoint: it has {filled} of "
                    f"{value.size} numbers of variable_{i}{_place(part)}"
                )
            found[part] = value
        return found


def read(path: pathlib.Path) -> Saved:
    """All but the values of the variables.

    Raises:
        ValueError: the file is damaged, or not a training checkpoint; a file of its parts is
            missing, or not the one that was written with it.
    """
    with _opened(path) as file, _damage_in(path):
        header = json.loads(file["header"].tobytes())
        described, record = header["variables"], header["record"]
        digests = header.get("parts", [])
        generators = {
            name.removeprefix(_GENERATOR): file[name]
            for name in file.files
            if name.startswith(_GENERATOR)
        }
    files = [path]
    for index, digest in enumerate(digests):
        part_file = _part_file(path, index, len(digests))
        if not part_file.exists():
            raise ValueError(f"{part_file}, a part of {path.name}, is missing")
        with _damage_in(part_file):
            found = _digest(part_file)
        if found != digest:
            raise ValueError(f"{part_file} was not written with {path.name}, or is damaged")
        files.append(part_file)
    places: list[dict] = [{} for _ in described]
    for file_path in files:
        with _opened(file_path) as file, _damage_in(file_path):
            for name in file.files:
                match = re.fullmatch(r"variable_(\d+)(?:\[(.+)\])?", name)
                if match:
                    part = match[2] and tuple(
                        tuple(map(int, along.split(":"))) for along in match[2].split(",")
                    )
                    places[int(match[1])][part] = file_path, name
    return Saved(path, record, generators, described, files, places)


def is_intact(path: pathlib.Path) -> bool:
    """Whether all that was written can be read."""
    try:
        for file_path in read(path).files:
            with _opened(file_path) as file, _damage_in(file_path):
                if file.zip.testzip() is not None:
                    return False
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        with _damage_in(path):
            stream = stack.enter_context(open(path, "rb"))
            file = stack.enter_context(np.load(stream, allow_pickle=False))
        yield file


@contextlib.contextmanager
def _damage_in(path: pathlib.Path) -> Iterator[None]:
    """What reading a damaged file may raise, as one error that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (
        AttributeError,  # not an archive but a bare array
        EOFError,
        LookupError,
        NotImplementedError,
        OSError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"{path} is damaged, or not a training checkpoint: {error}") from error


def _write(path: pathlib.Path, content: Config, name: str) -> None:
    unfinished = path.parent / name  # always the same name: a crash leaves at most one file
    with open(unfinished, "wb") as file:
        np.savez(file, **content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    _sync_directory(path.parent)


def _part_file(path: pathlib.Path, index: int, count: int) -> pathlib.Path:
    return path.with_suffix(f".part-{index}-of-{count}")


def _digest(path: pathlib.Path) -> int:
    """A checksum of the checksums of its arrays, which needs not read them."""
    with zipfile.ZipFile(path) as archive:
        members = [(member.filename, member.CRC) for member in archive.infolist()]
    return zlib.crc32(json.dumps(members).encode()) >> 1  # an int32


def _place(part: Part) -> str:
    return "" if part is None else f"[{','.join(f'{start}:{end}' for start, end in part)}]"


def _bounds(part: Part, shape: list[int]) -> tuple[tuple[int, int], ...]:
    return tuple((0, size) for size in shape) if part is None else part


def _describe(variables: list) -> list[dict]:
    return [
        {
            # Keras numbers layers from 0 in each process: dense_7 may be dense_2 after a restart.
            # The scopes of an optimizer's variables depend on the code that built it.
            "name": re.sub(r"_\d+(?=_|$)", "", variable.path.split("/")[-1]),
            "shape": list(variable.shape),
            "dtype": variable.dtype,
        }
        for variable in variables
    ]


def _difference(variables: list, found: list[dict]) -> str:
    for variable, mine, theirs in zip(variables, _describe(variables), found, strict=False):
        if mine != theirs:
            return f"{variable.path} must be {_show(mine)}, got {_show(theirs)}"
    return f"expected {len(variables)} variables, got {len(found)}"


def _show(entry: dict) -> str:
    return f"{entry['name']} {entry['dtype']}{entry['shape']}"


def _plain(number: object) -> Any:
    """Numbers and arrays of numpy, which come among the logs, as Python's own."""
    return np.asarray(number).tolist()


def _portable(array: np.ndarray) -> np.ndarray:
    # An .npz file knows numpy's own types only; bfloat16 and float8 travel as unsigned integers.
    is_ours = array.dtype.type.__module__ == ml_dtypes.bfloat16.__module__
    return array.view(f"uint{8 * array.itemsize}") if is_ours else array


def _sync_directory(directory: pathlib.Path) -> None:
    if os.name == "nt":  # Windows cannot open a directory, and renames durably
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
