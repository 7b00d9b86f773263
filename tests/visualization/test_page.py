"""The page holds the escaped tokens and the weights, and loads nothing else."""

import base64
import html
import html.parser
import itertools
import json
import re
import shutil
import subprocess
import zlib

import numpy as np
import pytest

from keras_attn.visualization import page, rollout

TOKENS = ["</script><script>alert(1)</script>", '"&amp;', "机", "\u2028"]


class Reader(html.parser.HTMLParser):
    """Collects the elements, their attributes and their text."""

    def __init__(self):
        super().__init__()
        self.elements, self.text = [("", {})], {}

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        tag, attributes = self.elements[-1]
        key = attributes.get("id", tag)
        self.text[key] = self.text.get(key, "") + data


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def content(path):
    """The data that the page's script reads: axes of tokens, and layers with their weights."""
    found = json.loads(read(path).text["data"])
    for layer in found["layers"]:
        numbers = np.frombuffer(zlib.decompress(base64.b64decode(layer["data"])), "<u2")
        queries, keys = (len(found["axes"][layer[side]]) for side in ("queries", "keys"))
        shape = (layer["heads"], queries, keys)
        layer["weights"] = numbers.reshape(shape) / 65535 * found["limit"]
    return found


def test_tokens_and_weights_can_be_read_from_the_page(tmp_path):
    rng = np.random.default_rng(5)
    own, cross = rng.dirichlet(np.ones(4), (3, 4)), rng.dirichlet(np.ones(2), 4)
    path = tmp_path / "page.html"
    tokens = {"own": (TOKENS, TOKENS), "cross": (TOKENS, ["a", "b"])}
    written = page(path, {"own": own, "cross": cross}, tokens, title="<b>@data@")
    found = content(path)
    first, second = found["layers"]
    assert (first["name"], second["name"]) == ("own", "cross")
    assert found["axes"] == [TOKENS, ["a", "b"]]
    assert [first["queries"], first["keys"], second["queries"], second["keys"]] == [0, 0, 0, 1]
    np.testing.assert_allclose(first["weights"], own, atol=1e-5)
    np.testing.assert_allclose(second["weights"], cross[None], atol=1e-5)
    reader = read(path)
    assert reader.text["title"].strip() == reader.text["h1"].strip() == "<b>@data@"
    frame = Reader()
    frame.feed(written._repr_html_())
    assert dict(frame.elements)["iframe"]["srcdoc"] == path.read_text(encoding="utf-8")


def test_query_and_key_can_be_read_from_the_page(tmp_path):
    rng = np.random.default_rng(5)
    entry = {
        "weights": rng.dirichlet(np.ones(2), (3, 4)),
        "query": rng.normal(size=(3, 4, 5)),
        "key": 7 * rng.normal(size=(3, 2, 5)),
    }
    sides = (list("abcd"), list("xy"))
    page(
        tmp_path / "page.html",
        {"with": entry, "without": entry["weights"]},
        dict.fromkeys(("with", "without"), sides),
    )
    first, second = content(tmp_path / "page.html")["layers"]
    products = first["products"]
    query, key = (
        np.frombuffer(zlib.decompress(base64.b64decode(products[part])), "<i2").reshape(3, -1, 5)
        for part in ("query", "key")
    )
    found = products["unit"] * query[:, :, None].astype(float) * key[:, None].astype(float)
    expected = entry["query"][:, :, None] * entry["key"][:, None]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert products["width"] == 5 and second["products"] is None


def test_weights_above_one_keep_their_value(tmp_path):
    page(tmp_path / "page.html", {"layer": [[7.0, 0.5]]}, {"layer": (["q"], ["a", "b"])})
    (layer,) = content(tmp_path / "page.html")["layers"]
    np.testing.assert_allclose(layer["weights"], [[[7.0, 0.5]]], atol=1e-4)


def test_tokens_of_any_type_are_written_as_text(tmp_path):
    tokens = [b"\xe6\x9c\xba", np.bytes_(b"\xff"), np.int64(7), "\ud800"]
    page(tmp_path / "page.html", {"layer": np.ones((4, 4))}, {"layer": (tokens, np.arange(4))})
    assert content(tmp_path / "page.html")["axes"] == [["机", "\ufffd", "7", "?"], list("0123")]


def test_rollout_equals_the_sum_over_all_paths(tmp_path):
    """The sum over paths of positions through the layers of the product of their steps' weights."""
    rng = np.random.default_rng(7)
    layers = rng.dirichlet(np.ones(3), (4, 2, 3))  # [L, N, T, T]
    found = rollout(layers)
    for depth in range(1, 5):
        expected = np.zeros((3, 3))
        for path in itertools.product(range(3), repeat=depth + 1):
            steps = [
                0.5 * layers[depth - 1 - i, :, a, b].mean() + 0.5 * (a == b)
                for i, (a, b) in enumerate(itertools.pairwise(path))
            ]
            expected[path[0], path[-1]] += np.prod(steps)
        np.testing.assert_allclose(found[depth - 1], expected, atol=1e-12)
    weights = {f"block_{i}": w for i, w in enumerate(layers)}
    weights["cross"] = np.ones((2, 3, 5)) / 5
    sides = {name: (list("abc"), list("abc")) for name in weights} | {
        "cross": (list("abc"), "vwxyz")
    }
    page(tmp_path / "page.html", weights, sides)
    last = content(tmp_path / "page.html")["layers"][-1]
    assert last["name"] == "rollout" and last["queries"] == last["keys"] == 0
    np.testing.assert_allclose(last["weights"], found, atol=1e-5)


def test_the_page_loads_nothing_and_escapes_tokens(tmp_path):
    path = tmp_path / "page.html"
    page(path, {"layer": np.ones((1, 4, 4))}, TOKENS)
    reader = read(path)
    assert [tag for tag, _ in reader.elements].count("script") == 2
    assert all({"src", "href"}.isdisjoint(attributes) for _, attributes in reader.elements)
    assert not any(word in path.read_text(encoding="utf-8") for word in ("http", "url(", "@import"))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4,), r"the weights of 'layer' must be \[N, T, S\] or \[T, S\], got shape \(4,\)"),
        (
            (0, 4, 4),
            r"the weights of 'layer' must have a head, a query and a key, got .*\(0, 4, 4\)",
        ),
        ((2, 3, 4), "the tokens of 'layer' must be 3 queries and 4 keys, got 4 and 4"),
    ],
)
def test_incompatible_shapes_raise(tmp_path, shape, message):
    with pytest.raises(ValueError, match=message):
        page(tmp_path / "page.html", {"layer": np.ones(shape)}, TOKENS)


def test_other_invalid_arguments_raise(tmp_path):
    path, good = tmp_path / "page.html", np.ones((1, 4, 4))
    with pytest.raises(ValueError, match="`weights` must have a layer, got none"):
        page(path, {}, TOKENS)
    with pytest.raises(ValueError, match="an entry for the layer 'layer', got other, more"):
        page(path, {"layer": good}, {"other": (TOKENS, TOKENS), "more": (TOKENS, TOKENS)})
    with pytest.raises(ValueError, match="of 'layer' must be finite, got inf in 16 places, first"):
        page(path, {"layer": np.full((1, 4, 4), np.inf)}, TOKENS)
    with pytest.raises(ValueError, match="of 'layer' must be at least 0, got -1.0"):
        page(path, {"layer": -good}, TOKENS)
    with pytest.raises(
        ValueError, match=r"of layer 1 must be \[N, T, T\] with one T, got \(1, 4, 5\)"
    ):
        rollout([good, np.ones((1, 4, 5))])
    with pytest.raises(ValueError, match="`weights` must be a dict from .*, got a list"):
        page(path, [good], TOKENS)
    with pytest.raises(ValueError, match="`tokens` must be a sequence of tokens, got None"):
        page(path, {"layer": good}, None)
    with pytest.raises(ValueError, match="`weights` must have a layer, got none"):
        rollout([])
    entry = {"weights": good, "query": np.ones((1, 4, 3))}
    with pytest.raises(
        ValueError, match="entry of 'layer' must be weights, or .*, got one of weig"
    ):
        page(path, {"layer": entry}, TOKENS)
    with pytest.raises(
        ValueError, match=r"the key of 'layer' must be \(1, 4, 3\), got shape \(1, 4, 2\)"
    ):
        page(path, {"layer": entry | {"key": np.ones((1, 4, 2))}}, TOKENS)
    assert not path.exists()


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ASK = """
<script>
const weight = (x, y) => number(state.drawn.at(y, x));
const answers = {};
(async () => {
  while (!document.body.dataset.ready) await new Promise((done) => setTimeout(done, 10));
  const dark = (id) => {
    const small = document.getElementById(id).firstChild;
    const pixels = small.getContext("2d").getImageData(0, 0, small.width, small.height).data;
    return Math.min(...pixels.filter((_, index) => index % 4 === 0));
  };
  const ids = layers.flatMap((layer, l) => range(layer.heads).map((head) => `${l}:${head}`));
  answers.dark = ids.map(dark);
  choose(1, 2);
  answers.cell = weight(50, 3);
  answers.box = canvas.getBoundingClientRect().toJSON();
  answers.window = [innerWidth, innerHeight, document.body.scrollWidth, document.body.scrollHeight];
  document.getElementById("special").click();
  answers.hidden = [state.drawn.rows.length, state.drawn.columns.length];
  element("filter").value = "01"; element("filter").onchange();
  answers.filtered = [state.drawn.rows.length, state.drawn.columns.length, weight(0, 0)];
  document.querySelector("[value=token]").click();
  answers.heads = state.drawn.rows.length;
  table.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
  answers.focus = document.activeElement.id;
  element("special").click(); element("filter").value = ""; element("filter").onchange();
  document.querySelector("[value=map]").click();
  canvas.focus();
  for (const key of ["ArrowDown", "ArrowDown", "ArrowRight", "Enter"])
    canvas.dispatchEvent(new KeyboardEvent("keydown", { key }));
  answers.picked = [state.query, element("mark").hidden];
  while (!layers[1].query) await new Promise((done) => setTimeout(done, 10));
  document.querySelector("[value=products]").click();
  answers.products = range(3).map((t) => [1, 5, 8, 12].map((s) => state.drawn.at(t, s)));
  choose(0, 0);
  answers.without = caption.textContent;
  document.body.textContent = JSON.stringify(answers);
})();
</script>
"""


@pytest.mark.backends("tensorflow", reason="a page in a browser")
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("size", [(1280, 900), (400, 800)])
def test_the_page_works_in_a_browser(tmp_path, size):
    """No thumbnail is empty, the head fits the window, hiding and filters work."""
    count = 90
    tokens = ["[CLS]", *"a" * 40, "[SEP]", *"b" * (count - 43), "[SEP]"]
    rng = np.random.default_rng(3)
    weights = {
        "even": rng.dirichlet(np.ones(count), (3, count)),
        "odd": np.zeros((3, count, count)),
    }
    for head in range(3):
        weights["odd"][head, 3, 50 + head] = 1.0
    weights["odd"][2, 3, 50] = 0.25
    weights["odd"][2, 1, 42] = 0.125
    query, key = rng.normal(size=(2, 3, count, 5))
    weights["odd"] = {"weights": weights["odd"], "query": query, "key": key}
    path = tmp_path / "page.html"
    page(path, weights, tokens)
    path.write_text(path.read_text(encoding="utf-8") + ASK, encoding="utf-8")
    output = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", f"--user-data-dir={tmp_path / 'user'}"),
            *("--virtual-time-budget=20000", f"--window-size={size[0]},{size[1]}"),
            *("--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    answers = json.loads(html.unescape(re.search(r"<body[^>]*>(\{.*\})</body>", output)[1]))
    assert (
        len(answers["dark"]) == 3 + 3 + 2 and max(answers["dark"]) < 20
    )  # dark blue has little red
    assert answers["cell"] == "0.2500"
    width, height, whole_width, whole_height = answers["window"]
    assert whole_width <= width and whole_height <= height
    assert answers["box"]["right"] <= width and answers["box"]["bottom"] <= height
    assert answers["hidden"] == [count - 3, count - 3]
    assert answers["filtered"] == [
        40,
        count - 43,
        "0.1250",
    ]  # the first token of A to the first of B
    assert answers["heads"] == 3 + 3  # without a row for the rollout
    assert answers["focus"] == "1:1"
    assert answers["picked"] == [2, False]
    products = query[1, 2] * key[1]
    for t, (weight, total, first, last) in enumerate(answers["products"]):
        assert weight == 0 and abs(total - products[t].sum()) < 2e-3
        np.testing.assert_allclose([first, last], products[t, [0, 4]], atol=1e-3)
    assert answers["without"] == "even, head 0: its query and key are not on this page"
