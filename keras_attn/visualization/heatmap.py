"""Attention weights as a picture, with the tokens on both axes.

Letters: N heads, T query length, S key length.
"""

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_attn._checks import check_count, optional_module
from keras_attn._typing import Tensor

# DejaVu Sans has no Chinese characters: the first installed font after it draws them.
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
# With more tokens than these the labels are as close as possible, and pixels are larger.
_MANY, _SMALL_CELL, _SMALL_DPI = 48, 0.13, 90
_NARROWEST, _GAP, _TITLE = 0.9, 0.2, 0.35  # inches


def heatmap(
    path: str | os.PathLike,
    weights: Tensor,
    queries: Sequence[object],
    keys: Sequence[object] | None = None,
    *,
    titles: Sequence[str] | None = None,
    title: str = "",
    columns: int = 4,
) -> None:
    """Write a PNG of one or more heads: a row for each query, a column for each key.

    All heads share one color scale, from 0 to the largest weight. If no installed font can draw a
    token, a warning names the characters and the fonts that can.

    Args:
        path: path of the PNG.
        weights: float `[T, S]`, or `[N, T, S]` for a grid of heads.
        queries: T tokens, each a string, bytes or a number.
        keys: S tokens; defaults to the queries.
        titles: titles of the N heads; defaults to their numbers.
        title: title of the picture.
        columns: the number of heads in a row.

    Raises:
        ValueError: weights of another rank, empty, not finite or negative; a number of tokens or
            titles that does not match the weights; `columns` is not a positive integer.
    """
    check_count("columns", columns)
    heads = head_weights("`weights`", weights)  # [N, T, S]
    check_positive_weights("`weights`", heads)
    queries = token_texts("queries", queries)
    keys = queries if keys is None else token_texts("keys", keys)
    if titles is None:
        titles = [""] if np.ndim(weights) == 2 else [f"head {n}" for n in range(len(heads))]
    titles = token_texts("titles", titles)
    for name, items, expected in zip(
        ("titles", "queries", "keys"), (titles, queries, keys), heads.shape, strict=True
    ):
        if len(items) != expected:
            raise ValueError(
                f"`{name}` must be {expected}, as `weights` has shape {np.shape(weights)}, "
                f"got {len(items)}"
            )
    _check_fonts([*queries, *keys, *titles, title])
    with warnings.catch_warnings():  # Matplotlib warns for each character, each time it is drawn
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        _draw(path, heads, queries, keys, titles, title, min(columns, len(heads)))


def fonts() -> dict[str, Any]:
    """Matplotlib settings with the installed fonts of `FONTS`, for `matplotlib.rc_context`."""
    font_manager = optional_module("matplotlib.font_manager", "visualization", "A heat map")
    installed = set(font_manager.get_font_names())
    return {"font.family": [name for name in FONTS if name in installed]}


def _check_fonts(texts: Iterable[str]) -> None:
    families = fonts()["font.family"]
    from matplotlib import font_manager, ft2font

    known: set[int] = set()
    for name in families:
        known |= set(ft2font.FT2Font(font_manager.findfont(name)).get_charmap())
    missing = sorted({letter for text in texts for letter in text if ord(letter) not in known})
    missing = [letter for letter in missing if letter.isprintable()]
    if missing:
        shown = " ".join(missing[:10]) + (" ..." if len(missing) > 10 else "")
        warnings.warn(
            f"no installed font draws {shown}: the picture shows boxes. "
            f"Install one of {', '.join(FONTS[1:])}",
            stacklevel=3,
        )


def _draw(path, heads, queries, keys, titles, title, columns) -> None:
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure  # not pyplot, which opens windows and keeps figures

    rows = math.ceil(len(heads) / columns)
    many = max(len(queries), len(keys)) > _MANY
    cell, dpi = (_SMALL_CELL, _SMALL_DPI) if many else (CELL, DPI)
    wide, high = cell * len(keys), cell * len(queries)
    across, down = max(wide, _NARROWEST) + _GAP, high + _TITLE
    width, height = columns * across, rows * down
    colors = ScalarMappable(Normalize(0, heads.max()), "Blues")
    with matplotlib.rc_context({**fonts(), "font.size": 8}):
        figure = Figure(figsize=(width, height), dpi=dpi)

        def place(left: float, bottom: float, width_: float, height_: float) -> Any:
            return figure.add_axes(
                (left / width, bottom / height, width_ / width, height_ / height)
            )

        axes = []
        for index in range(len(heads)):
            row, column = divmod(index, columns)
            axis = place(column * across, height - row * down - high, wide, high)
            right, below = len(keys) - 0.5, len(queries) - 0.5
            axis.set(xlim=(-0.5, right), ylim=(below, -0.5), xticks=[], yticks=[])
            axis.set_title(titles[index], parse_math=False)
            # Only the outer heads have labels, as plain text: tick labels take a millisecond each.
            style = {"parse_math": False, "clip_on": False}
            for t, token in enumerate(queries if column == 0 else ()):
                axis.text(-0.8, t, token, ha="right", va="center_baseline", **style)
            for s, token in enumerate(keys if index + columns >= len(heads) else ()):
                axis.text(s, below + 0.3, token, rotation=90, ha="center", va="top", **style)
            axes.append(axis)
        bottom = height - (rows - 1) * down - high
        figure.colorbar(colors, cax=place(width, bottom, 0.1, height - bottom))
        figure.text(0, 1 + _TITLE / height, title, fontsize=10, parse_math=False)
        # The labels extend beyond the figure, so the file is enlarged to hold them. They are
        # measured before the maps are added, which are slow to draw twice.
        box = figure.get_tightbbox().padded(0.1)
        for axis, head in zip(axes, heads, strict=True):
            axis.imshow(
                colors.to_rgba(head, bytes=True)[..., :3], aspect="auto", interpolation="nearest"
            )
        figure.savefig(
            os.fspath(path), format="png", bbox_inches=box, pil_kwargs={"compress_level": 1}
        )


def head_weights(name: str, weights: Tensor) -> np.ndarray:
    """Finite weights, float32 `[N, T, S]`; `[T, S]` is one head.

    Raises:
        ValueError: another rank, an empty axis, a NaN or an infinity; the message says where.
    """
    try:
        array = np.asarray(weights, "float32")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, in rows of one length: {error}") from error
    if array.ndim not in (2, 3):
        raise ValueError(f"{name} must be [N, T, S] or [T, S], got shape {array.shape}")
    if not array.size:
        raise ValueError(f"{name} must have a head, a query and a key, got shape {array.shape}")
    heads = array.reshape(-1, *array.shape[-2:])
    wrong = np.argwhere(~np.isfinite(heads))
    if len(wrong):
        head, query, key = wrong[0]
        raise ValueError(
            f"{name} must be finite, got {heads[head, query, key]} in {len(wrong)} places, first "
            f"at head {head}, query {query}, key {key}"
        )
    return heads


def check_positive_weights(name: str, heads: np.ndarray) -> None:
    """Raise a ValueError for negative weights, which the color scale cannot show."""
    if heads.min() < 0:
        raise ValueError(f"{name} must be at least 0, got {heads.min()}")


def token_texts(name: str, tokens: Iterable[object]) -> list[str]:
    """Tokens as text: strings, bytes (UTF-8), numbers, or an array or a tensor of them."""
    if hasattr(tokens, "numpy"):
        tokens = tokens.numpy()
    if not isinstance(tokens, Iterable):
        raise ValueError(f"`{name}` must be a sequence of tokens, got {tokens!r}")
    return [_text(token) for token in tokens]


def _text(token: Any) -> str:
    if hasattr(token, "numpy"):  # a tensor of one token
        token = token.numpy()
    if isinstance(token, bytes):
        return token.decode("utf-8", "replace")
    return str(token).encode("utf-8", "replace").decode()  # a lone surrogate cannot be drawn
