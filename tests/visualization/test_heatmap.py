"""The heat map is a PNG whose size follows its tokens; invalid arguments raise."""

import struct
import zlib

import numpy as np
import pytest

from keras_attn.visualization.heatmap import CELL, DPI, heatmap

QUERIES = ["[CLS]", "the", "$x$", "_a", "$\\bad{"]  # a dollar does not start a formula
KEYS = ["[CLS]", "ein", "Wort"]


def size_of(path):
    """Width and height in pixels, read from the PNG header."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[12:16] == b"IHDR"
    assert zlib.crc32(content[12:29]) == struct.unpack(">I", content[29:33])[0]
    return struct.unpack(">II", content[16:24])


def weights(*shape):
    return np.random.default_rng(0).dirichlet(np.ones(shape[-1]), size=shape[:-1])


def test_one_head_gives_a_png_with_a_cell_per_pair(tmp_path):
    heatmap(tmp_path / "a.png", weights(5, 3), QUERIES, KEYS, title="one")
    width, height = size_of(tmp_path / "a.png")
    assert width > 3 * CELL * DPI and height > 5 * CELL * DPI


def test_the_image_size_grows_with_heads_and_tokens(tmp_path):
    def size(heads, queries, columns):
        path = tmp_path / "b.png"
        heatmap(path, np.ones((heads, queries, 3)), ["q"] * queries, KEYS, columns=columns)
        return np.array(size_of(path))

    two, five, longer = size(2, 5, 2), size(5, 5, 2), size(2, 12, 2)
    assert abs(five[0] - two[0]) < 12  # the labels of the color scale
    assert five[1] > two[1] + 2 * 5 * CELL * DPI
    assert longer[1] - two[1] == pytest.approx(7 * CELL * DPI, abs=2)


def test_the_largest_weight_is_the_darkest(tmp_path):
    from matplotlib.image import imread

    def darkest(values):
        heatmap(tmp_path / "c.png", values, ["a", "b"], ["c", "d"])
        return np.argwhere(imread(tmp_path / "c.png")[..., 0] < 0.1).mean(0)

    top, bottom = darkest([[0.0, 0.9], [0.0, 0.0]]), darkest([[0.0, 0.0], [0.9, 0.0]])
    assert top[0] < bottom[0] and top[1] > bottom[1]


def test_many_tokens_get_smaller_cells(tmp_path):
    """12 heads of 128 tokens took half a minute with 26 pixels per token and hidden labels."""
    tokens = [f"t{i}" for i in range(128)]
    heatmap(tmp_path / "e.png", weights(2, 128, 128), tokens, columns=1)
    width, height = size_of(tmp_path / "e.png")
    assert 128 * 11 < width < 128 * 15 and 2 * 128 * 11 < height < 2 * 128 * 15


def test_only_the_outer_heads_have_labels(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    made, text = [], Axes.text

    def spy(self, x, y, token, **options):
        made.append(token)
        return text(self, x, y, token, **options)

    monkeypatch.setattr(Axes, "text", spy)
    heatmap(tmp_path / "f.png", weights(5, 4, 3), list("abcd"), KEYS, columns=2)
    rows, columns = [*"abcd"], [*KEYS]
    assert made == [*rows, *rows, *columns, *rows, *columns]  # heads 0, 2, 3 and 4


def test_bytes_and_numbers_are_accepted_as_tokens(tmp_path):
    heatmap(
        tmp_path / "g.png", weights(2, 3), np.array([7, 11]), [b"\xc3\x9f", np.bytes_(b"x"), "y"]
    )
    heatmap(tmp_path / "h.png", weights(2, 3), ["7", "11"], ["\u00df", "x", "y"])
    width = size_of(tmp_path / "g.png")[0]
    assert width == size_of(tmp_path / "h.png")[0]


def test_a_missing_font_warns(tmp_path):
    with pytest.warns(UserWarning, match="no installed font draws \U00013000.*Install one of Noto"):
        heatmap(tmp_path / "i.png", weights(2, 2), ["a", "\U00013000"])  # a hieroglyph


@pytest.mark.parametrize(
    ("shape", "queries", "keys", "titles", "message"),
    [
        ((3,), QUERIES, KEYS, None, r"`weights` must be \[N, T, S\] or \[T, S\], got shape \(3,\)"),
        ((2, 0, 3), [], KEYS, None, r"must have a head, a query and a key, got shape \(2, 0, 3\)"),
        ((5, 3), KEYS, KEYS, None, r"`queries` must be 5, .* got 3"),
        ((3, 5), KEYS, None, None, r"`keys` must be 5, .* got 3"),
        ((2, 5, 3), QUERIES, KEYS, ["a"], r"`titles` must be 2, .* got 1"),
    ],
)
def test_incompatible_shapes_raise(tmp_path, shape, queries, keys, titles, message):
    with pytest.raises(ValueError, match=message):
        heatmap(tmp_path / "d.png", np.ones(shape), queries, keys, titles=titles)


def test_other_invalid_arguments_raise(tmp_path):
    path, good = tmp_path / "k.png", weights(2, 3)
    for arguments, message in (
        ((good, ["a", "b"], KEYS), "`columns` must be a positive integer, got 0"),
        ((-good, ["a", "b"], KEYS), "`weights` must be at least 0, got -"),
        (([["a"]], ["a"]), "`weights` must be numbers, in rows of one length: could not convert"),
        (([[1.0, 2.0], [1.0]], ["a"]), "`weights` must be numbers, in rows of one length"),
        ((good, None), "`queries` must be a sequence of tokens, got None"),
        ((good, ["a", "b"], 3), "`keys` must be a sequence of tokens, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            heatmap(path, *arguments, columns=0 if "columns" in message else 4)
    assert not path.exists()
    heatmap(path, good[None], ["a", "\ud800"], KEYS, titles=[3])
    assert path.exists()


def test_a_nan_weight_raises(tmp_path):
    values = weights(2, 5, 3)
    values[1, 4, 2] = np.nan
    with pytest.raises(
        ValueError, match="finite, got nan in 1 places, first at head 1, query 4, key 2"
    ):
        heatmap(tmp_path / "j.png", values, QUERIES, KEYS)
