"""Builds and runs load_saved_model.cc, which loads a version as ModelServer does."""

import glob
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from keras_attn.export.isolation import as_array

SOURCE = Path(__file__).with_name("load_saved_model.cc")
_TYPES = {"float32": "float", "int32": "int32", "int64": "int64", "bool": "bool"}


def build(folder: Path) -> Path:
    """The program, built against the C++ library in the tensorflow wheel."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to build the C++ loader with")
    library = Path(importlib.util.find_spec("tensorflow").origin).parent
    program = folder / "load_saved_model"
    flags = "-std=c++17 -O1 -D_GLIBCXX_USE_CXX11_ABI=1 -DEIGEN_MAX_ALIGN_BYTES=64 -w"
    subprocess.run(
        [
            *["g++", *flags.split(), f"-I{library}/include", str(SOURCE), "-o", str(program)],
            *[f"-L{library}", "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"],
            f"-Wl,-rpath,{library}",
        ],
        check=True,
    )
    return program


def run(program: Path, folder: Path, signature: str, inputs: dict) -> dict:
    """The outputs of a signature, strings as bytes."""
    text = Path(importlib.util.find_spec("tensorflow_text").origin).parent
    operations = sorted(glob.glob(str(text / "python" / "ops" / "_*.so")))
    words = " ".join(word for name, value in inputs.items() for word in _words(name, value))
    done = subprocess.run(
        [str(program), str(folder), signature, *operations],
        input=words,
        text=True,
        capture_output=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(_tensor(line.split()) for line in done.stdout.splitlines())


def _words(name, value):
    array = as_array(value)
    kind = "string" if array.dtype == object else _TYPES[array.dtype.name]
    values = [f"x{v.hex()}" for v in array.ravel()] if kind == "string" else array.ravel() + 0
    return [name, kind, str(array.ndim), *map(str, array.shape), *map(str, values)]


def _tensor(words):
    name, kind, rank, *rest = words
    shape, values = [int(size) for size in rest[: int(rank)]], rest[int(rank) :]
    if kind == "string":
        flat = np.array([bytes.fromhex(value[1:]) for value in values], object)
    else:
        flat = np.array(values, "float32" if kind == "float" else kind)
    return name, flat.reshape(shape)
