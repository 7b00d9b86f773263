"""Attention weights as a picture, with the tokens on both axes.

Letters: N heads, T query length, S key length.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

# The first that is installed draws what the fonts before it cannot: Chinese.
FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "SimHei",
    "Arial Unicode MS",
)
DPI = 120
CELL = 0.22  # inches
_NARROWEST, _GAP, _TITLE = 0.9, 0.2, 0.35  # inches


def heatmap(
    path: str | os.PathLike,
    weights: Any,
    queries: Sequence[str],
    keys: Sequence[str] | None = None,
    *,
    titles: Sequence[str] | None = None,
    title: str = "",
    columns: int = 4,
) -> None:
    """Write a PNG of one head or of many: a row for each query, a column for each key.

    All heads share one scale, from 0 to the greatest weight. It needs matplotlib.

    Args:
        path: of the PNG.
        weights: float `[T, S]`, or `[N, T, S]` for a grid of heads.
        queries: T tokens.
        keys: S tokens; the queries unless given.
        titles: of the N heads; numbered unless given.
        title: of the whole.
        columns: how many heads stand side by side.

    Raises:
        ValueError: weights of another rank, or tokens or titles that are not as many as the
            weights' axes say.
    """
    weights = np.asarray(weights, "float32")
    keys = queries if keys is None else keys
    if weights.ndim not in (2, 3):
        raise ValueError(f"`weights` must be [T, S] or [N, T, S], got shape {weights.shape}")
    if titles is None:
        titles = [""] if weights.ndim == 2 else [f"head {n}" for n in range(len(weights))]
    heads = weights.reshape(-1, *weights.shape[-2:])  # [N, T, S]
    for name, items, expected in zip(
        ("titles", "queries", "keys"), (titles, queries, keys), heads.shape, strict=True
    ):
        if len(items) != expected:
            raise ValueError(
                f"`{name}` must be {expected}, as `weights` has shape {weights.shape}, "
                f"got {len(items)}"
            )
    _draw(path, heads, queries, keys, titles, title, min(columns, len(heads)))


def fonts() -> dict[str, Any]:
    """The installed ones of `FONTS` as matplotlib's settings, for `matplotlib.rc_context`."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return {"font.family": [name for name in FONTS if name in installed]}


def _draw(path, heads, queries, keys, titles, title, columns) -> None:
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: no window, nothing kept

    rows = math.ceil(len(heads) / columns)
    wide, high = CELL * len(keys), CELL * len(queries)
    across, down = max(wide, _NARROWEST) + _GAP, high + _TITLE
    width, height = columns * across, rows * down
    with matplotlib.rc_context({**fonts(), "font.size": 8}):
        figure = Figure(figsize=(width, height), dpi=DPI)

        def place(left: float, bottom: float, width_: float, height_: float) -> Any:
            return figure.add_axes(
                (left / width, bottom / height, width_ / width, height_ / height)
            )

        for index, head in enumerate(heads):
            row, column = divmod(index, columns)
            axis = place(column * across, height - row * down - high, wide, high)
            image = axis.imshow(head, cmap="Blues", vmin=0, vmax=heads.max(), aspect="auto")
            axis.set_title(titles[index], parse_math=False)
            axis.set_yticks(range(len(queries)), queries, parse_math=False)
            axis.set_xticks(range(len(keys)), keys, rotation=90, parse_math=False)
            lowest = index + columns >= len(heads)
            axis.tick_params(length=0, labelleft=column == 0, labelbottom=lowest)
        bottom = height - (rows - 1) * down - high
        figure.colorbar(image, cax=place(width, bottom, 0.1, height - bottom))
        figure.text(0, 1 + _TITLE / height, title, fontsize=10, parse_math=False)
        # The labels hang over the figure's edge: the file is as large as all of them need.
        figure.savefig(path, format="png", bbox_inches="tight")
