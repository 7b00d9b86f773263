"""Pre-training from records: a run finishes, and a resumed run gives the same weights."""

import subprocess
import sys

import pytest

from tests.data.pretraining.small_records import TOKENIZER, write, write_text
from tests.examples.test_bert_pretrain import ROOT, weights

pytestmark = [
    pytest.mark.backends("tensorflow", reason="the example exports a SavedModel"),
    pytest.mark.slow,
]


def train(records, output, *arguments):
    command = [sys.executable, ROOT / "examples" / "bert_pretrain.py", "--records", records]
    command += ["--size", "bert_tiny", "--steps", "20", "--save-every", "5", "--output", output]
    subprocess.run([*command, *arguments], check=True, cwd=ROOT)


def test_a_run_from_records_resumes_to_the_same_weights(tmp_path):
    write(tmp_path, write_text(tmp_path, files=3, documents=9), held_out=0.3)
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENIZER.vocabulary) + "\n")
    train(tmp_path, tmp_path / "whole")
    train(tmp_path, tmp_path / "parts")
    for saved in (tmp_path / "parts" / "checkpoints").glob("step-*"):
        if int(saved.stem.removeprefix("step-")) > 10:
            saved.unlink()
    (tmp_path / "parts" / "model.keras").unlink()
    train(tmp_path, tmp_path / "parts", "--resume")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
