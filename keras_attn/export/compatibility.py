"""Checks that a ModelServer has every operation that a SavedModel uses.

`operations/VERSION.json` lists the operations of each version; tools/server_operations.py of the
repository wrote the lists.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LISTS = Path(__file__).parent / "operations"


def check_operations(path: str | os.PathLike, server: str) -> None:
    """Raise a ValueError that names the operations that ModelServer `server` does not have.

    Args:
        path: a SavedModel's folder.
        server: a version such as "2.20" or "2.19.1". For a version between two lists, the older
            list applies.
    """
    known = operations_of(server)
    problems = {}
    for function, node in _nodes(path):
        problem = _problem(node, known)
        if problem:
            problems.setdefault(problem, f"in {function}, node {node.name}")
    if problems:
        listed = "; ".join(f"{problem} ({where})" for problem, where in sorted(problems.items()))
        raise ValueError(f"`server` {server} cannot run this model: {listed}")


def operations_of(server: str) -> dict[str, dict[str, list | None]]:
    """Operations of a ModelServer: name to attributes, each with its allowed values or None.

    Raises:
        ValueError: not a version, or one older than the oldest list.
    """
    lists = {_numbers(file.stem): file for file in _LISTS.glob("*.json")}
    wanted = _numbers(server)
    older = [numbers for numbers in lists if wanted and numbers <= wanted]
    if not older:
        names = ", ".join(".".join(map(str, numbers)) for numbers in sorted(lists))
        raise ValueError(f"`server` must be a ModelServer version from {names} on, got {server!r}")
    return json.loads(lists[max(older)].read_text())


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version; empty if it is not a version."""
    parts = str(version).split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts):
        return ()
    return int(parts[0]), int(parts[1])


def _nodes(path: str | os.PathLike) -> Iterator[tuple[str, Any]]:
    """Every node of the graph and of its functions, with the name of the graph or function."""
    (meta_graph,) = _read(path).meta_graphs
    functions = {function.signature.name for function in meta_graph.graph_def.library.function}
    for node in meta_graph.graph_def.node:
        if node.op not in functions:
            yield "the graph", node
    for function in meta_graph.graph_def.library.function:
        for node in function.node_def:
            if node.op not in functions:
                yield function.signature.name, node


def _read(path: str | os.PathLike) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    return saved_model_pb2.SavedModel.FromString(Path(path, "saved_model.pb").read_bytes())


def _problem(node: Any, known: dict[str, dict[str, list | None]]) -> str | None:
    from tensorflow.core.framework import types_pb2

    if node.op not in known:
        return f"it has no operation {node.op}"
    attributes = known[node.op]
    for name, value in node.attr.items():
        if name.startswith("_"):
            continue  # a hint, which a runtime may ignore
        if name not in attributes:
            return f"its operation {node.op} has no attribute {name}"
        allowed = attributes[name]
        given = types_pb2.DataType.Name(value.type) if value.type else value.s.decode("latin-1")
        if allowed and given and given not in allowed:
            return f"its operation {node.op} does not take {name}={given}"
    return None
