"""The search among sentences: its text, its baseline, and a small run from the command line."""

import importlib
import pathlib
import re

import numpy as np
import pytest

from tests.examples.runner import printed_by

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
WORDS = {
    "open": "auf",
    "close": "zu",
    "table": "Tabelle",
    "row": "Zeile",
    "cell": "Zelle",
    "chart": "Diagramm",
    "page": "Seite",
    "line": "Linie",
    "field": "Feld",
    "word": "Wort",
    "image": "Bild",
    "list": "Reihe",
    "print": "Druck",
    "save": "sichern",
    "move": "bewegen",
    "find": "suchen",
}

pytestmark = pytest.mark.backends("tensorflow", reason="the examples' own backend")


@pytest.fixture
def searching(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("sentence_search")


def test_tf_idf_equals_its_formula(searching):
    """Of three texts two have the same three windows, one has five, three of them twice."""
    vectorize = searching.TfIdf(["abcd", "abcd", "wxyz wxyz"], 2**14)
    first, second = vectorize(["ABCD", "wxyz wxyz"])
    np.testing.assert_allclose(first[first > 0], 3 * [3**-0.5], rtol=1e-6)
    weights = np.array([1, 1, *3 * [1 + np.log(2)]])
    expected = weights / np.linalg.norm(weights)
    np.testing.assert_allclose(np.sort(second[second > 0]), expected, rtol=1e-6)


def test_held_out_pairs_are_new_on_both_sides_and_occur_once(searching):
    seen = [("Open the table", "Die Tabelle"), ("Save the page now", "Die Seite sichern")]
    new = [
        ("A chart of lines", "Ein Diagramm aus Linien"),
        ("Open the table!", "Etwas ganz anderes"),
        ("Something quite different", "Die Seite sichern."),
        ("A chart of lines", "Ein Bild"),
        ("Print in colour", "Farbig drucken"),
    ]
    assert searching.unlike(new, seen) == [new[0], new[4]]


def test_pairs_that_share_a_text_have_one_number(searching):
    pairs = [("a", "A"), ("b", "B"), ("c", "A"), ("d", "D"), ("b", "A"), ("e", "d")]
    found = searching.numbered(pairs)
    same = [[0, 1, 2, 4], [3, 5]]
    assert sorted([i for i in range(6) if found[i] == n] for n in set(found)) == same


def test_ranks_count_ties_against_the_right_one(searching):
    queries = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    candidates = np.array([[1.0, 0.0], [2.0, 0.5], [0.0, 1.0]])
    assert searching.ranks(queries, candidates).tolist() == [2, 2, 3]


@pytest.mark.slow
def test_sentence_search_learns_a_small_language_and_resumes(tmp_path):
    rng, lines = np.random.default_rng(0), ["document\ten\tde"]
    for number in range(2000):
        words = rng.choice(list(WORDS), 6)
        german = (WORDS[word] for word in words)
        lines.append(f"{number // 10}\t{' '.join(words)}\t{' '.join(german)}")
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = ["--data", tmp_path / "pairs.tsv", "--steps", 30, "--output", tmp_path / "run"]
    printed = printed_by("sentence_search", *options)
    table = {
        name: float(first)
        for name, first in re.findall(r"^(\S.*?) {2,}([\d.]+)%  +[\d.]+%$", printed, re.MULTILINE)
    }
    assert set(table) == {"TF-IDF", "before training", "this model"}
    assert table["this model"] > 80 > table["TF-IDF"]
    assert (tmp_path / "run" / "curves.png").is_file()
    resumed = printed_by("sentence_search", *options, "--resume")
    assert re.findall("recall at 1 .*", resumed) == re.findall("recall at 1 .*", printed)
    _, english, german = lines[7].split("\t")
    found = printed_by("sentence_search", "--search", english, "--output", tmp_path / "run")
    best = re.findall(r"^ *[\d.]+  (en|de)  (.*)$", found, re.MULTILINE)
    assert len(best) == 10 and best[0] == ("en", english)
    assert next(text for language, text in best if language == "de") == german
