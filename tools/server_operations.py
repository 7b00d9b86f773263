r"""A script: the operations of a ModelServer version, from the wheels that it was built like.

    python tools/server_operations.py 2.19 --tensorflow 2.19.1 --text 2.12.1 \
        --text-tensorflow 2.12.1

downloads the wheels with pip, one at a time, into a temporary folder, asks the libraries in them
for what is registered (through TensorFlow's C interface, so the wheels need not be installed), and
writes `keras_attn/export/operations/2.19.json`: each operation's attributes, with the values that
an attribute may take where they are limited. ModelServer 2.12.1 to 2.19.1 link TensorFlow Text
2.12.1.
"""

import argparse
import ctypes
import json
import multiprocessing
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LISTS = Path(__file__).parents[1] / "keras_attn" / "export" / "operations"


class _Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("free", ctypes.c_void_p)]


def fetch(package: str, version: str, folder: Path) -> Path:
    """The libraries of a wheel for Python 3.11 on Linux, unpacked; the wheel is deleted."""
    target = folder / f"{package}-{version}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(target)]
    pip += ["--only-binary=:all:", "--python-version=311", "--platform=manylinux_2_17_x86_64"]
    subprocess.run([*pip, "--platform=manylinux2014_x86_64", f"{package}=={version}"], check=True)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            is_text = "/ops/_" in name and name.endswith(".so")
            if is_text or (name.count("/") == 1 and name.endswith(".so.2")):
                archive.extract(name, target)
    wheel.unlink()
    return target


def registered(tensorflow: Path, text: Path | None) -> bytes:
    """The serialized OpList of the libraries; run it in a process of its own."""
    folder = tensorflow / "tensorflow"
    ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)
    library.TF_GetAllOpList.restype = ctypes.POINTER(_Buffer)
    library.TF_NewStatus.restype = ctypes.c_void_p
    library.TF_LoadLibrary.restype = ctypes.c_void_p
    library.TF_LoadLibrary.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    library.TF_Message.restype = ctypes.c_char_p
    library.TF_Message.argtypes = library.TF_GetCode.argtypes = [ctypes.c_void_p]
    for file in sorted(text.rglob("_*.so")) if text else []:
        status = library.TF_NewStatus()
        library.TF_LoadLibrary(str(file).encode(), status)
        if library.TF_GetCode(status):
            raise RuntimeError(f"{file} does not load: {library.TF_Message(status).decode()}")
    buffer = library.TF_GetAllOpList().contents
    return ctypes.string_at(buffer.data, buffer.length)


def operations(serialized: bytes) -> dict[str, dict[str, list | None]]:
    """Name to attributes; an attribute to its allowed values, None where any will do."""
    from tensorflow.core.framework import op_def_pb2, types_pb2

    listed = {}
    for op in op_def_pb2.OpList.FromString(serialized).op:
        attributes = {}
        for attr in op.attr:
            allowed = attr.allowed_values.list
            types = [types_pb2.DataType.Name(number) for number in allowed.type]
            attributes[attr.name] = types + [text.decode() for text in allowed.s] or None
        listed[op.name] = attributes
    return listed


def _listed(tensorflow: Path, text: Path | None) -> dict:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return operations(pool.apply(registered, (tensorflow, text)))


def main() -> None:
    """List one server's operations."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("server")
    parser.add_argument("--tensorflow", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--text-tensorflow", required=True, help="that this text wheel loads into")
    parser.add_argument("--folder", type=Path, help="keep the unpacked libraries here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        text = fetch("tensorflow-text", arguments.text, folder)
        base = fetch("tensorflow", arguments.text_tensorflow, folder)
        listed = _listed(base, text)
        if arguments.tensorflow != arguments.text_tensorflow:
            own = {name: listed[name] for name in set(listed) - set(_listed(base, None))}
            listed = {**_listed(fetch("tensorflow", arguments.tensorflow, folder), None), **own}
    lines = [f"{json.dumps(name)}: {json.dumps(listed[name])}" for name in sorted(listed)]
    (LISTS / f"{arguments.server}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{arguments.server}: {len(listed)} operations")


if __name__ == "__main__":
    main()
