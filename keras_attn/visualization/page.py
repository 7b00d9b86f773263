"""All layers and heads on one self-contained HTML page.

Letters: N heads, T query length, S key length, H head width, L layers.
"""

import base64
import dataclasses
import html
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_attn._typing import Nested, Tensor
from keras_attn.visualization.heatmap import (
    check_positive_weights,
    head_weights,
    token_texts,
)

FULL = 65_535  # a weight is stored as an integer, in units of limit / 65535
PART = 32_767  # a query or key value as an integer, in units of the largest / 32767
ROLLOUT = "rollout"
_TEMPLATE = Path(__file__).with_suffix(".html")


@dataclasses.dataclass(frozen=True)
class Page:
    """A page that was written. A notebook displays it as the value of a cell."""

    path: Path

    def _repr_html_(self) -> str:
        content = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{content}" width="100%" height="720" frameborder="0"></iframe>'


def page(
    path: str | os.PathLike,
    weights: Mapping[str, Nested],
    tokens: Sequence[object] | Mapping[str, tuple[Sequence[object], Sequence[object]]],
    *,
    title: str = "Attention",
) -> Page:
    """Write a page with a small map of every head and a large one of the selected head.

    A small map shows the largest weight of each block of cells, so that no large weight is missed.
    The large picture is a map of queries and keys, lines from queries to keys, one token's weights
    in all heads, or the product of one token's query with each key by dimension, with the
    resulting weight. Special tokens such as [CLS] and [SEP] can be hidden, and weights within and
    between two sentences distinguished. A click or the arrow keys select a head. Layers whose
    queries and keys are the same tokens get one more row, their `rollout`.

    The file contains the weights, the style and the script. It needs a browser of 2023 or later.

    Args:
        path: path of the HTML file.
        weights: a dict from a layer's name to its weights `[N, T, S]`, or `[T, S]` of a layer
            without heads. For the products by dimension, to a dict of "weights", "query"
            `[N, T, H]` and "key" `[N, S, H]`, as `attention_model(query_key=True)` gives them.
        tokens: the tokens on both axes of every layer, or a dict from a layer's name to
            (T queries, S keys). Each token is a string, bytes or a number.
        title: title of the page.

    Returns:
        A `Page`, which a notebook shows.

    Raises:
        ValueError: no layers; a layer without tokens; weights of another rank, empty, NaN or
            negative; tokens, a query or a key that do not match the weights' axes.

    Example:
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "page.html"
    >>> written = page(path, {"block_0": [[[0.25, 0.75], [1.0, 0.0]]]}, ["a", "b"])
    >>> "block_0" in written.path.read_text()
    True
    """
    if weights is not None and not isinstance(weights, Mapping):
        raise ValueError(
            "`weights` must be a dict from the names of layers to their weights, got a "
            f"{type(weights).__name__}"
        )
    if not weights:
        raise ValueError("`weights` must have a layer, got none")
    axes: list[list[str]] = []
    found = []
    for name, values in weights.items():
        parts = values if isinstance(values, Mapping) else {"weights": values}
        if set(parts) not in ({"weights"}, {"weights", "query", "key"}):
            raise ValueError(
                f"the entry of {name!r} must be weights, or a dict of weights, query and key, got "
                f"one of {', '.join(parts)}"
            )
        heads = head_weights(f"the weights of {name!r}", parts["weights"])
        check_positive_weights(f"the weights of {name!r}", heads)
        sides = [_axis(axes, side) for side in _sides(name, heads, tokens)]
        found.append((name, "head", heads, sides, _query_key(name, parts, heads)))
    for axis in range(len(axes)):
        own = [heads for *_, heads, sides, _ in found if sides == [axis, axis]]
        if len(own) > 1:
            number = f" {axis}" if any(name == ROLLOUT for name, *_ in found) else ""
            reached = rollout(own).astype("float32")
            found.append((f"{ROLLOUT}{number}", "layer", reached, [axis, axis], None))
    limit = max(1.0, *(float(heads.max()) for _, _, heads, *_ in found))
    content = {
        "axes": axes,
        "limit": limit,
        "layers": [
            {
                "name": name,
                "queries": queries,
                "keys": keys,
                "heads": len(heads),
                "each": each,
                "data": _pack(heads / limit * FULL, "<u2"),
                "products": products,
            }
            for name, each, heads, (queries, keys), products in found
        ],
    }
    # "<" could end the script element from inside a string.
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    values = {"title": html.escape(title), "data": data}
    template = _TEMPLATE.read_text(encoding="utf-8")
    filled = re.sub("@(title|data)@", lambda match: values[match[1]], template)
    Path(path).write_text(filled, encoding="utf-8", errors="replace")
    return Page(Path(path))


def rollout(weights: Sequence[Tensor]) -> np.ndarray:
    """Attention rollout: how much of each token reaches each position after each layer.

    The mean of a layer's heads and the residual connection have equal weight: `A_l = (mean(W_l) +
    I) / 2`, its rows divided by their sums, and the rollout is the product `A_l ... A_1 A_0`.

    Args:
        weights: the self-attention weights of each layer, in order, each `[N, T, T]` or `[T, T]`.

    Returns:
        float64 `[L, T, T]`, one matrix for each layer.

    Raises:
        ValueError: no layers; weights that are not square or not of one size.

    Source: Abnar and Zuidema 2020, section 3.

    Example:
    >>> rollout([[[0.5, 0.5], [0.0, 1.0]]]).tolist()
    [[[0.75, 0.25], [0.0, 1.0]]]
    """
    if not len(weights):
        raise ValueError("`weights` must have a layer, got none")
    reached, results = None, []
    for index, values in enumerate(weights):
        heads = head_weights(f"the weights of layer {index}", values)
        mixed = heads.mean(0, dtype="float64")
        if mixed.shape[0] != mixed.shape[1] or (results and mixed.shape != results[0].shape):
            raise ValueError(
                f"the weights of layer {index} must be [N, T, T] with one T, got {heads.shape}"
            )
        mixed = mixed + np.eye(len(mixed))
        mixed /= mixed.sum(-1, keepdims=True)
        reached = mixed if reached is None else mixed @ reached
        results.append(reached)
    return np.stack(results)


def _sides(name: str, heads: np.ndarray, tokens: Any) -> list[list[str]]:
    if not isinstance(tokens, Mapping):
        sides = (tokens, tokens)
    elif name in tokens:
        sides = tokens[name]
    else:
        raise ValueError(
            f"`tokens` must have an entry for the layer {name!r}, got {', '.join(tokens)}"
        )
    texts = [token_texts("tokens", side) for side in sides]
    if tuple(map(len, texts)) != heads.shape[1:]:
        raise ValueError(
            f"the tokens of {name!r} must be {heads.shape[1]} queries and {heads.shape[2]} "
            f"keys, got {' and '.join(str(len(side)) for side in texts)}"
        )
    return texts


def _axis(axes: list[list[str]], tokens: list[str]) -> int:
    if tokens not in axes:
        axes.append(tokens)
    return axes.index(tokens)


def _query_key(name: str, parts: Mapping[str, Tensor], heads: np.ndarray) -> dict | None:
    """Query and key as the page's script reads them; None where the layer has none."""
    if "query" not in parts:
        return None
    arrays = {}
    for part, length in (("query", heads.shape[1]), ("key", heads.shape[2])):
        array = arrays[part] = head_weights(f"the {part} of {name!r}", parts[part])
        if array.shape[:2] != (len(heads), length) or array.shape[2] != arrays["query"].shape[2]:
            raise ValueError(
                f"the {part} of {name!r} must be {(len(heads), length, arrays['query'].shape[2])}, "
                f"got shape {array.shape}"
            )
    limits = {part: float(np.abs(array).max()) or 1.0 for part, array in arrays.items()}
    packed = {part: _pack(array / limits[part] * PART, "<i2") for part, array in arrays.items()}
    width = arrays["query"].shape[2]
    return {"width": width, "unit": limits["query"] * limits["key"] / PART**2, **packed}


def _pack(numbers: np.ndarray, dtype: str) -> str:
    content = np.rint(numbers).astype(dtype).tobytes()
    return base64.b64encode(zlib.compress(content, 1)).decode("ascii")
