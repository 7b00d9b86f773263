"""The README's Python code runs without changes, and that of the guides when they are built."""

import pathlib
import re

import keras
import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"


def test_readme_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    names = {}
    exec("\n".join(blocks), names)
    ids = np.array([[1, 2, 3], [4, 0, 0]], "int32")
    again = keras.models.load_model("classifier.keras", compile=False)
    assert again.predict(ids, verbose=0).shape == names["model"](ids).shape == (2, 5)


def test_both_readmes_have_the_same_code_and_rows():
    both = [path.read_text(encoding="utf-8") for path in (README, ROOT / "README.zh.md")]
    blocks = [re.findall(r"```(\w+)\n(.*?)```", text, re.S) for text in both]
    ours, theirs = ([re.sub("  ?#.*", "", code).rstrip() for _, code in found] for found in blocks)
    assert [code.rstrip() for code in ours] == [code.rstrip() for code in theirs]
    rows = [re.findall(r"^\|.*\|$", text, re.M) for text in both]
    names = [[re.findall(r"`\w+(?:\.py)?`", row.split("|")[1]) for row in found] for found in rows]
    assert names[0] == names[1]
    assert re.search(r"guides/notes\.md", both[0]) and re.search(r"guides/notes\.md", both[1])


def test_all_python_code_of_the_documentation_is_executed():
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        assert "```python" not in text, path
        if "{code-cell}" in text:
            assert text.startswith("---\njupytext:"), (
                path
            )  # otherwise Sphinx shows the cells as text


def test_tests_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert len(named) > 9
    for path, name in named:
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8"), name
