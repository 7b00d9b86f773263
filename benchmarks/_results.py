"""Stores the results of the benchmarks, with the machine on which they were measured."""

import functools
import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "BF16", "amx_tile": "AMX"}
PACKAGES = (
    *("keras", "keras-hub", "tensorflow", "jax", "torch", "transformers"),
    *("tf2onnx", "onnxruntime", "ai-edge-litert", "openvino"),
)


def keep(record: dict[str, Any], path: Path) -> None:
    """Print the record, and append it to the file as a line of JSON."""
    line = json.dumps(record)
    print(line, flush=True)
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(line + "\n")


def machine() -> dict[str, Any]:
    """The processor with its instruction sets, the cores, oneDNN's setting, and the versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.name == "posix" else []
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = facts.get("flags", "").split()
    return {
        "processor": facts.get("model name", "unknown"),
        "can": [label for flag, label in FLAGS.items() if flag in flags],
        "cores": _cores(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "as installed"),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; says so if not."""
    if {"BF16", "AMX"} & set(machine()["can"]):
        return True
    print("bfloat16: not measured here, the processor has no instructions for it", flush=True)
    return False


def named(record: dict[str, Any]) -> str:
    """The machine of a record in words."""
    if "processor" not in record or record.get("device", "cpu") != "cpu":
        return record.get("device", "")
    cores = f"{record['cores']} core{'s' * (record['cores'] > 1)}"
    names = [f"{record['processor']}, {cores}", *record["can"]]
    if record["onednn"] != "as installed":
        names.append(f"TF_ENABLE_ONEDNN_OPTS={record['onednn']}")
    return ", ".join(names)


@functools.cache
def device() -> str:
    """The GPU's name, or "cpu"."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "cpu"
    return said.splitlines()[0].strip()


def _cores() -> int | None:
    """Those that this process may use, where the system says so."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
