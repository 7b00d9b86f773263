"""All layers and heads on one HTML page that needs nothing else.

Letters: N heads, T query length, S key length.
"""

import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 1000  # a weight is written as a whole number of thousandths


def page(
    path: str | os.PathLike,
    weights: Mapping[str, Any],
    tokens: Sequence[str] | Mapping[str, tuple[Sequence[str], Sequence[str]]],
    *,
    title: str = "Attention",
) -> None:
    """Write a page with a small map of every head; a click, or the arrow keys, enlarge one.

    The large map has the tokens on both axes and names the weight under the pointer. One file: the
    weights, rounded to thousandths, the style and the script are inside.

    Args:
        path: of the HTML file.
        weights: name of a layer to its weights `[N, T, S]`, or `[T, S]` of a layer without heads.
        tokens: those on both axes of every layer, or name of a layer to (T queries, S keys).
        title: of the page.

    Raises:
        ValueError: weights of another rank, or tokens that are not as many as their axes say.

    Example:
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "page.html"
    >>> page(path, {"block_0": [[[0.25, 0.75], [1.0, 0.0]]]}, ["a", "b"])
    >>> "[250,750]" in path.read_text()
    True
    """
    layers = []
    for name, values in weights.items():
        values = np.asarray(values, "float32")
        if values.ndim not in (2, 3):
            raise ValueError(
                f"the weights of {name!r} must be [N, T, S] or [T, S], got shape {values.shape}"
            )
        heads = values.reshape(-1, *values.shape[-2:])  # [N, T, S]
        queries, keys = tokens[name] if isinstance(tokens, Mapping) else (tokens, tokens)
        if (len(queries), len(keys)) != heads.shape[1:]:
            raise ValueError(
                f"the tokens of {name!r} must be {heads.shape[1]} queries and {heads.shape[2]} "
                f"keys, got {len(queries)} and {len(keys)}"
            )
        layers.append(
            {
                "name": name,
                "queries": list(queries),
                "keys": list(keys),
                "heads": np.rint(heads * STEPS).astype(int).tolist(),
            }
        )
    # "<" could end the script element from inside a string.
    content = json.dumps(layers, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"title": html.escape(title), "layers": content}
    filled = re.sub(r"\{(title|layers)\}", lambda match: parts[match[1]], _TEMPLATE)
    Path(path).write_text(filled, encoding="utf-8")


_TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fff; }
  h1 { font-size: 1.2rem; }
  main { display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start; }
  th { font-weight: normal; text-align: right; padding-right: .5rem; color: #666; }
  td button { padding: 0; border: 2px solid #ddd; background: none; cursor: pointer; }
  td button[aria-pressed=true] { border-color: #d4550a; }
  td canvas { display: block; width: 52px; height: 52px; image-rendering: pixelated; }
  figure { margin: 0; }
  figcaption { min-height: 1.5em; font-variant-numeric: tabular-nums; }
</style>
<h1>{title}</h1>
<main>
  <table aria-label="a row for each layer, a column for each head"></table>
  <figure><figcaption></figcaption><canvas></canvas></figure>
</main>
<script type="application/json" id="layers">{layers}</script>
<script>
"use strict";
const layers = JSON.parse(document.getElementById("layers").textContent);
const table = document.querySelector("table");
const caption = document.querySelector("figcaption");
const large = document.querySelector("figure canvas");
const CELL = 22, FONT = "13px system-ui, sans-serif";
const shown = { layer: 0, head: 0, left: 0, top: 0 };

function color(weight, most) {
  const share = most ? weight / most : 0;
  return `rgb(${255 - 247 * share}, ${255 - 207 * share}, ${255 - 148 * share})`;
}

function paint(canvas, head, cell, left, top) {
  const pen = canvas.getContext("2d");
  const most = head.flat().reduce((a, b) => Math.max(a, b), 0);
  head.forEach((row, t) => row.forEach((weight, s) => {
    pen.fillStyle = color(weight, most);
    pen.fillRect(left + s * cell, top + t * cell, cell, cell);
  }));
}

function title() {
  const { name, heads } = layers[shown.layer];
  return name + (heads.length > 1 ? `, head ${shown.head}` : "");
}

function show(layer, head) {
  shown.layer = layer;
  shown.head = head;
  const { queries, keys, heads } = layers[layer];
  const pen = large.getContext("2d");
  pen.font = FONT;
  const width = (tokens) => 12 + Math.max(...tokens.map((token) => pen.measureText(token).width));
  shown.left = width(queries);
  shown.top = width(keys);
  const size = [shown.left + keys.length * CELL + 1, shown.top + queries.length * CELL + 1];
  const scale = window.devicePixelRatio || 1;
  [large.width, large.height] = size.map((length) => length * scale);
  [large.style.width, large.style.height] = size.map((length) => `${length}px`);
  pen.scale(scale, scale);
  pen.font = FONT;
  pen.textBaseline = "middle";
  pen.fillStyle = "#222";
  pen.textAlign = "right";
  queries.forEach((token, t) => pen.fillText(token, shown.left - 6, shown.top + (t + .5) * CELL));
  pen.textAlign = "left";
  keys.forEach((token, s) => {
    pen.save();
    pen.translate(shown.left + (s + .5) * CELL, shown.top - 6);
    pen.rotate(-Math.PI / 2);
    pen.fillText(token, 0, 0);
    pen.restore();
  });
  paint(large, heads[head], CELL, shown.left, shown.top);
  pen.strokeStyle = "#ccc";
  pen.strokeRect(shown.left, shown.top, keys.length * CELL, queries.length * CELL);
  caption.textContent = title();
  for (const button of document.querySelectorAll("td button"))
    button.setAttribute("aria-pressed", button.id === `${layer}:${head}`);
}

layers.forEach(({ name, queries, keys, heads }, layer) => {
  const row = table.insertRow();
  const label = document.createElement("th");
  label.textContent = name;
  row.append(label);
  heads.forEach((head, index) => {
    const button = document.createElement("button");
    const canvas = document.createElement("canvas");
    button.id = `${layer}:${index}`;
    button.setAttribute("aria-label", `${name}, head ${index}`);
    button.onclick = () => show(layer, index);
    canvas.width = keys.length;
    canvas.height = queries.length;
    paint(canvas, head, 1, 0, 0);
    button.append(canvas);
    row.insertCell().append(button);
  });
});

large.onmousemove = (event) => {
  const { queries, keys, heads } = layers[shown.layer];
  const s = Math.floor((event.offsetX - shown.left) / CELL);
  const t = Math.floor((event.offsetY - shown.top) / CELL);
  if (s < 0 || t < 0 || s >= keys.length || t >= queries.length) return;
  const weight = (heads[shown.head][t][s] / 1000).toFixed(3);
  caption.textContent = `${title()}: ${queries[t]} \\u2192 ${keys[s]} ${weight}`;
};

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
document.onkeydown = (event) => {
  if (!(event.key in MOVES)) return;
  event.preventDefault();
  const [down, right] = MOVES[event.key];
  const layer = Math.min(Math.max(shown.layer + down, 0), layers.length - 1);
  const last = layers[layer].heads.length - 1;
  show(layer, Math.min(Math.max(shown.head + right, 0), last));
};

if (layers.length) show(0, 0);
</script>
</html>
"""
