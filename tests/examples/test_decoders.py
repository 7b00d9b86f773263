"""The examples that generate text, run small on a user's file."""

import re

import keras
import numpy as np
import pytest

import keras_attn  # noqa: F401 - registers the layers of the models
from tests.examples.runner import printed_by

WORDS = {"open": "öffnen", "the": "die", "table": "Tabelle", "row": "Zeile", "cell": "Zelle"}
WRITTEN = re.compile(r"^  \[(.*)\](.*)$", re.MULTILINE)  # a prompt and what follows

pytestmark = [
    pytest.mark.backends("tensorflow", reason="strings are TensorFlow's"),
    pytest.mark.slow,
]


@pytest.fixture
def table(tmp_path):
    """Two hundred documents of ten pairs: words in turn, translated one by one."""
    rng, lines = np.random.default_rng(0), ["document\ten\tde"]
    for number in range(2000):
        words = np.roll(list(WORDS), rng.integers(5))
        lines.append(
            f"{number // 10}\t{' '.join(words)}\t{' '.join(WORDS[word] for word in words)}"
        )
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def weights(output):
    return keras.saving.load_model(output / "model.keras", compile=False).get_weights()


@pytest.mark.parametrize(
    ("name", "steps", "size"),
    [
        ("translate_transformer", 150, "transformer_tiny"),
        ("translate_rnn_attention", 150, "32"),
    ],
)
def test_translators_learn_a_small_language_and_resume(table, tmp_path, name, steps, size):
    options = ["--data", table, "--size", size, "--output", tmp_path / "run"]
    printed = printed_by(name, *options, "--steps", steps)
    bleu, copied = map(float, re.search(r"BLEU ([\d.]+) .* source ([\d.]+)", printed).groups())
    assert bleu > copied
    trained = weights(tmp_path / "run")
    assert re.findall(
        "BLEU.*", printed_by(name, *options, "--steps", steps, "--resume")
    ) == re.findall("BLEU.*", printed)
    for before, after in zip(trained, weights(tmp_path / "run"), strict=True):
        np.testing.assert_array_equal(after, before)


def repeats(printed):
    """Whether a word occurs twice in one of the texts."""
    texts = [prompt + new for prompt, new in WRITTEN.findall(printed)]
    assert texts
    return any(len(text.split()) > len(set(text.split())) for text in texts)


def test_generate_text_beats_unigram_perplexity_and_writes_known_words(table, tmp_path):
    text = tmp_path / "text.txt"
    pairs = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    text.write_text("\n".join(f"{english}\n\n" for _, english, _ in pairs))
    options = ["--text", text, "--size", "gpt_tiny", "--steps", 100, "--output", tmp_path / "run"]
    printed = printed_by("generate_text", *options)
    found, unigram = map(
        float, re.search(r"perplexity ([\d.]+) .*unigram model ([\d.]+)", printed).groups()
    )
    assert found < unigram
    written = WRITTEN.findall(printed)
    assert written and set(" ".join(new for _, new in written).split()) <= set(WORDS)
    again = ["--resume", "--output", tmp_path / "run", "--temperature", 100]
    assert repeats(printed_by("generate_text", *again))
    assert not repeats(printed_by("generate_text", *again, "--no-repeat-ngram-size", 1))
