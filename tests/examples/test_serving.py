"""The serving examples from nothing, trained for a few steps; each makes what it needs."""

import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("tensorflow_serving")

from tests.export.serving_double import Double

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = [
    pytest.mark.backends("tensorflow", reason="the examples export SavedModels"),
    pytest.mark.slow,
]


def run(name, folder, *arguments):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{name}.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def answers(printed):
    """What is printed from the first answer on."""
    return printed.partition("--server http://localhost:8501")[2] or printed


def test_a_translator_is_published_and_asked(tmp_path):
    printed = run("serve_translation", tmp_path, "--steps", "6")
    servable = tmp_path / "runs" / "serve_translation" / "servables" / "translate"
    with Double(servable) as double:
        address = f"http://127.0.0.1:{double.rest_port}"
        again = run("serve_translation", tmp_path, "--server", address)
    assert answers(again).split() == answers(printed).split()


def test_three_berts_are_published_and_asked(tmp_path):
    printed = run("serve_bert", tmp_path, "--steps", "12")
    assert printed.count("    -> ") == 5
    config = tmp_path / "runs" / "serve_bert" / "servables" / "models.config"
    assert config.read_text().count("base_path") == 3
