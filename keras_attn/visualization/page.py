"""All layers and heads on one HTML page that needs nothing else.

Letters: N heads, T query length, S key length, L layers.
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

from keras_attn.visualization.heatmap import head_weights, token_texts

FULL = 65_535  # a weight is written as a whole number of 65535ths of the limit
ROLLOUT = "rollout"
_TEMPLATE = Path(__file__).with_suffix(".html")


@dataclasses.dataclass(frozen=True)
class Page:
    """A page that was written. A notebook shows it where it is the value of a cell."""

    path: Path

    def _repr_html_(self) -> str:
        content = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{content}" width="100%" height="720" frameborder="0"></iframe>'


def page(
    path: str | os.PathLike,
    weights: Mapping[str, Any],
    tokens: Sequence[Any] | Mapping[str, tuple[Sequence[Any], Sequence[Any]]],
    *,
    title: str = "Attention",
) -> Page:
    """Write a page with a small map of every head and a large one of the head that is chosen.

    A small map shows the greatest weight of each block of cells, so that none can hide. The large
    picture is a map of queries and keys, lines from queries to keys, or one token's weights in all
    heads. Markers such as [CLS] and [SEP] can be hidden, weights within and between two sentences
    told apart. A click or the arrow keys choose a head. The layers from the same tokens to the same
    tokens get one row more, their `rollout`.

    One file: the weights, the style and the script are inside. It needs a browser of 2023 or later.

    Args:
        path: path of the HTML file.
        weights: name of a layer to its weights `[N, T, S]`, or `[T, S]` of a layer without heads.
        tokens: those on both axes of every layer, or name of a layer to (T queries, S keys). Each
            is a string, bytes or a number.
        title: title of the page.

    Returns:
        A `Page`, which a notebook shows.

    Raises:
        ValueError: no layers; a layer without tokens; weights of another rank, empty, NaN or
            negative; tokens that are not as many as the weights' axes say.

    Example:
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "page.html"
    >>> written = page(path, {"block_0": [[[0.25, 0.75], [1.0, 0.0]]]}, ["a", "b"])
    >>> "block_0" in written.path.read_text()
    True
    """
    if not weights:
        raise ValueError("`weights` must have a layer, got none")
    axes: list[list[str]] = []
    found = []
    for name, values in weights.items():
        heads = head_weights(f"the weights of {name!r}", values)
        if heads.min() < 0:
            raise ValueError(f"the weights of {name!r} must be at least 0, got {heads.min()}")
        found.append((name, heads, [_axis(axes, side) for side in _sides(name, heads, tokens)]))
    for axis in range(len(axes)):
        own = [heads for _, heads, sides in found if sides == [axis, axis]]
        if len(own) > 1:
            number = f" {axis}" if any(name == ROLLOUT for name, *_ in found) else ""
            found.append((f"{ROLLOUT}{number}", rollout(own).astype("float32"), [axis, axis]))
    limit = max(1.0, *(float(heads.max()) for _, heads, _ in found))
    content = {
        "axes": axes,
        "limit": limit,
        "layers": [
            {
                "name": name,
                "queries": queries,
                "keys": keys,
                "heads": len(heads),
                "data": _pack(heads, limit),
            }
            for name, heads, (queries, keys) in found
        ],
    }
    # "<" could end the script element from inside a string.
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    values = {"title": html.escape(title), "data": data}
    template = _TEMPLATE.read_text(encoding="utf-8")
    filled = re.sub("@(title|data)@", lambda match: values[match[1]], template)
    Path(path).write_text(filled, encoding="utf-8", errors="replace")
    return Page(Path(path))


def rollout(weights: Sequence[Any]) -> np.ndarray:
    """How much of each token reaches each position after each layer, `[L, T, T]`.

    The mean of a layer's heads and the residual connection count half each: `A_l = (mean(W_l) +
    I) / 2`, its rows divided by their sums, and the rollout is the product `A_l ... A_1 A_0`.

    Args:
        weights: those of the self-attention of each layer, in order, each `[N, T, T]` or `[T, T]`.

    Source: Abnar and Zuidema 2020, section 3.

    Example:
    >>> rollout([[[0.5, 0.5], [0.0, 1.0]]]).tolist()
    [[[0.75, 0.25], [0.0, 1.0]]]
    """
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
    texts = [token_texts(side) for side in sides]
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


def _pack(heads: np.ndarray, limit: float) -> str:
    numbers = np.rint(heads / limit * FULL).astype("<u2")
    return base64.b64encode(zlib.compress(numbers.tobytes(), 1)).decode("ascii")
