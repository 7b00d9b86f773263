"""The page holds the tokens, escaped, and the weights, and asks for nothing from outside."""

import html.parser
import json

import numpy as np
import pytest

from keras_attn.visualization import page

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


def test_tokens_and_weights_come_back(tmp_path):
    rng = np.random.default_rng(5)
    own, cross = rng.dirichlet(np.ones(4), (3, 4)), rng.dirichlet(np.ones(2), 4)
    path = tmp_path / "page.html"
    tokens = {"own": (TOKENS, TOKENS), "cross": (TOKENS, ["a", "b"])}
    page(path, {"own": own, "cross": cross}, tokens, title="<b>{layers}")
    reader = read(path)
    first, second = json.loads(reader.text["layers"])
    assert (first["name"], second["name"]) == ("own", "cross")
    assert first["queries"] == first["keys"] == second["queries"] == TOKENS
    assert second["keys"] == ["a", "b"]
    np.testing.assert_allclose(np.array(first["heads"]) / 1000, own, atol=5.1e-4)
    np.testing.assert_allclose(np.array(second["heads"]) / 1000, cross[None], atol=5.1e-4)
    assert reader.text["title"].strip() == reader.text["h1"].strip() == "<b>{layers}"


def test_nothing_from_outside_and_no_token_becomes_markup(tmp_path):
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
        ((2, 3, 4), "the tokens of 'layer' must be 3 queries and 4 keys, got 4 and 4"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, shape, message):
    with pytest.raises(ValueError, match=message):
        page(tmp_path / "page.html", {"layer": np.ones(shape)}, TOKENS)
