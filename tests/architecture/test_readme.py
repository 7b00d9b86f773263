"""The README's Python code runs without changes."""

import pathlib
import re

import keras
import numpy as np

README = pathlib.Path(__file__).parents[2] / "README.md"


def test_readme_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    names = {}
    exec("\n".join(blocks), names)
    ids = np.array([[1, 2, 3], [4, 0, 0]], "int32")
    again = keras.models.load_model("classifier.keras", compile=False)
    assert again.predict(ids, verbose=0).shape == names["model"](ids).shape == (2, 5)
