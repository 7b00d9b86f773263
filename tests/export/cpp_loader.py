"""Builds and runs load_saved_model.cc, which loads a version as ModelServer does."""

import glob
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_attn.export.isolation import as_array

SOURCE = Path(__file__).with_name("load_saved_model.cc")
LIBRARY = Path(tf.__file__).parent


# Calls the program's main function.
START = """
import ctypes, os, sys
words = [os.fsencode(word) for word in sys.argv[1:]]
sys.exit(ctypes.CDLL(sys.argv[1]).run(len(words), (ctypes.c_char_p * len(words))(*words)))
"""


def build(folder: Path) -> Path:
    """The program, as a shared library: it is linked when it is started.

    To link with the library of the tensorflow wheel, which has a gigabyte, takes ten seconds.
    """
    if shutil.which("g++") is None:
        pytest.skip("no g++ to build the C++ loader with")
    program = folder / "load_saved_model.so"
    options = ["-w", "-shared", "-fPIC", f"-I{LIBRARY}/include"]
    subprocess.run(["g++", *options, str(SOURCE), "-o", str(program)], check=True)
    return program


def run(program: Path, folder: Path, signature: str, inputs: dict) -> dict:
    """The outputs of a signature, strings as bytes."""
    saved = saved_model_pb2.SavedModel.FromString(Path(folder, "saved_model.pb").read_bytes())
    called = saved.meta_graphs[0].signature_def[signature]
    words = [str(len(called.outputs)), *(tensor.name for tensor in called.outputs.values())]
    for name, value in inputs.items():
        words += [called.inputs[name].name, *_words(as_array(value))]
    text = Path(importlib.util.find_spec("tensorflow_text").origin).parent
    operations = sorted(glob.glob(str(text / "python" / "ops" / "_*.so")))
    done = subprocess.run(
        [sys.executable, "-S", "-c", START, str(program), str(folder), *operations],
        input=" ".join(words),
        text=True,
        capture_output=True,
        env={
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "LD_PRELOAD": str(LIBRARY / "libtensorflow_cc.so.2"),
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    return {name: _tensor(line) for name, line in zip(called.outputs, lines, strict=True)}


def _words(array):
    dtype = tf.as_dtype(array.dtype)
    values = [f"x{v.hex()}" for v in array.ravel()] if dtype == tf.string else array.ravel() + 0
    return map(str, [dtype.as_datatype_enum, array.ndim, *array.shape, *values])


def _tensor(line):
    dtype, rank, *rest = line.split()
    shape, values = [int(size) for size in rest[: int(rank)]], rest[int(rank) :]
    if int(dtype) == tf.string.as_datatype_enum:
        flat = np.array([bytes.fromhex(value[1:]) for value in values], object)
    else:
        flat = np.array(values, tf.as_dtype(int(dtype)).as_numpy_dtype)
    return flat.reshape(shape)
