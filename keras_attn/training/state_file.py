"""Variables and a record in one file: written whole or not at all, damage found on reading.

The file is numpy's .npz, a zip archive: it carries a checksum of every array, and needs no library
but numpy.
"""

import json
import os
import pathlib
import re
import zipfile
import zlib
from typing import Any

import ml_dtypes
import numpy as np

from keras_attn.backend import value_of

_GENERATOR = "generator_"


def arrays(variables: list) -> list[np.ndarray]:
    """The variables' values; every process must ask for them."""
    return [value_of(variable) for variable in variables]


def write(
    path: pathlib.Path, variables: list, values: list, generators: dict, record: dict
) -> None:
    """Write all to `path`, atomically.

    Args:
        path: path of the file.
        variables: what is described.
        values: the variables' values, from `arrays`.
        generators: arrays by name, the state of random generators.
        record: anything that JSON can hold.
    """
    header = {"record": record, "variables": _describe(variables)}
    beside = path.parent / "unfinished"  # always this name, so that a crash leaves one at most
    content: dict[str, Any] = {
        "header": np.frombuffer(json.dumps(header, default=_plain).encode(), "uint8"),
        **{f"variable_{i}": _portable(array) for i, array in enumerate(values)},
        **{_GENERATOR + name: state for name, state in generators.items()},
    }
    with open(beside, "wb") as file:
        np.savez(file, **content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    _sync_directory(path.parent)


def read(path: pathlib.Path) -> tuple[list[dict], list[np.ndarray], dict, dict]:
    """The description and value of each variable in `path`, the generators, and the record.

    Raises:
        ValueError: the file is damaged, or not a training checkpoint.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes())
            described, record = header["variables"], header["record"]
            values = [
                file[f"variable_{i}"].view(np.dtype(entry["dtype"]))
                for i, entry in enumerate(described)
            ]
            generators = {
                name.removeprefix(_GENERATOR): file[name]
                for name in file.files
                if name.startswith(_GENERATOR)
            }
    except FileNotFoundError:
        raise
    except (
        AttributeError,  # not an archive but a bare array
        EOFError,
        KeyError,
        NotImplementedError,
        OSError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"{path} is damaged, or not a training checkpoint: {error}") from error
    return described, values, generators, record


def assign(path: pathlib.Path, variables: list, described: list[dict], values: list) -> None:
    """Give each variable its value.

    Raises:
        ValueError: the values are not those of these variables; nothing has been assigned.
    """
    if described != _describe(variables):
        raise ValueError(
            f"{path} does not fit this model and optimizer: {_difference(variables, described)}"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _describe(variables: list) -> list[dict]:
    return [
        {
            # Keras numbers layers anew in each process, so dense_7 may be dense_2 after a restart,
            # and which scopes an optimizer's variables stand in depends on who built it.
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


def _plain(number: Any) -> Any:
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
