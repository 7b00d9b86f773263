"""The main example, run small: it finishes, and a killed run resumes exactly."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
import zipfile

import pytest

from tests.examples.runner import refusal

ROOT = pathlib.Path(__file__).parents[2]
WORDS = ["table", "row", "cell", "writer", "formula", "chart", "field", "style", "holds", "fills"]

pytestmark = pytest.mark.backends("tensorflow", reason="the example exports a SavedModel")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Forty documents of a small invented language, blank lines between them."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    documents = [
        "\n".join(
            " ".join(WORDS[(start + 3 * line + k) % len(WORDS)] for k in range(7 + line))
            for line in range(5)
        )
        for start in range(40)
    ]
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return path


def start(text, output, *arguments):
    command = [sys.executable, ROOT / "examples" / "bert_pretrain.py", "--text", text]
    command += ["--size", "bert_tiny", "--steps", "120", "--output", output, *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        # Tests that run in the background of a shell ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def newest(output):
    saved = (output / "checkpoints").glob("step-*.npz")
    return max((int(path.stem.removeprefix("step-")) for path in saved), default=0)


def weights(output):
    with zipfile.ZipFile(output / "model.keras") as archive:
        return archive.read("model.weights.h5")


def finish(process):
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    return printed


@pytest.mark.slow  # four runs
def test_a_killed_run_resumes_to_the_same_weights(text, tmp_path):
    whole = finish(start(text, tmp_path / "whole", "--save-every", "4"))
    assert "-> " in whole and "held-out masked accuracy" in whole
    curves, model = (tmp_path / "whole" / name for name in ("curves.png", "model.keras"))
    assert curves.stat().st_size > 10_000
    assert model.stat().st_mtime < curves.stat().st_mtime  # saved before it is evaluated
    lines = whole.splitlines()
    assert f"served folder: {tmp_path / 'whole' / 'servable'} (version 1" in whole
    asked = json.loads(shlex.split(next(line for line in lines if "curl" in line))[-1])
    assert "[MASK]" in asked["inputs"]["text"][0]
    assert "(the default run should reach" in lines[-1]

    killed = tmp_path / "killed"
    process = start(text, killed, "--save-every", "4")
    while newest(killed) < 24:  # the next save after 20 steps, the end of the first sixth
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (killed / "model.keras").exists()

    process = start(text, killed, "--resume")  # with the options of the run that was killed
    while newest(killed) < 48:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    printed, _ = process.communicate()
    assert process.returncode == 130 and "Traceback" not in printed
    assert printed.splitlines()[-1] == (
        f"stopped; to resume: python {ROOT}/examples/bert_pretrain.py --resume --output {killed}"
    )

    resumed = finish(start(text, killed, "--resume"))
    assert "resuming after step" in resumed
    assert weights(killed) == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "without any"), (b"good\n\xff\xfe bad\n", "line 2 is not")],
)
def test_an_unreadable_text_file_raises(tmp_path, content, message, monkeypatch):
    path = tmp_path / "broken.txt"
    path.write_bytes(content)
    options = "--text", path, "--output", tmp_path / "output"
    printed = refusal(monkeypatch, "bert_pretrain", *options, cwd=tmp_path)
    assert "broken.txt" in printed and message in printed
