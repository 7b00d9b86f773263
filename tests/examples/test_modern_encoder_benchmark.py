"""The comparison of ModernBERT with BERT: its rows and masks, its runs without TensorFlow."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

PAD, UNK, BEGIN, END, MASK = range(5)
V, T, B = 5000, 40, 3
LENGTHS = {"train": [3, 90, 38, 17, 17, 39, 1], "dev": [20, 21], "held_out": [50, 8]}

pytestmark = pytest.mark.backends("jax", reason="it prepares data in numpy, and then calls fit")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import modern_encoder

    return modern_encoder


@pytest.fixture
def path(tmp_path):
    random, arrays = np.random.default_rng(0), {"vocabulary_size": V, "special": range(5)}
    for part, lengths in LENGTHS.items():
        arrays[f"{part}_lengths"] = np.array(lengths)
        arrays[f"{part}_tokens"] = random.integers(5, 13, sum(lengths)).astype("uint16")
    np.savez(tmp_path / "corpus.npz", **arrays)
    return tmp_path / "corpus.npz"


def test_rows_hold_every_token_of_every_document_once(benchmark, path):
    corpus = benchmark.Corpus(path)
    rows = corpus.rows("train", T, B)
    assert rows["token_ids"].shape[1] == T and len(rows["token_ids"]) % B == 0
    found = []
    for ids, sequences, positions in zip(*rows.values(), strict=True):
        assert (ids[sequences == 0] == PAD).all()
        for number in range(1, sequences.max() + 1):
            (place,) = np.nonzero(sequences == number)
            assert positions[place].tolist() == list(range(len(place)))
            begin, *text, end = ids[place].tolist()
            assert (begin, end) == (BEGIN, END)
            found.append(text)
    documents = [document.tolist() for document in corpus.documents("train")]
    assert list(map(len, documents)) == LENGTHS["train"]
    pieces = [d[start : start + T - 2] for d in documents for start in range(0, len(d), T - 2)]
    assert sorted(found) == sorted(pieces)


def test_masks_follow_the_paper(benchmark, path):
    """15 % of the tokens; of these 80 % [MASK], 10 % another token, 10 % as they were."""
    corpus = benchmark.Corpus(path)
    rows = {name: np.tile(array, (500, 1)) for name, array in corpus.rows("train", T, B).items()}
    inputs, labels, weights = corpus.masked(rows, np.random.default_rng(0))
    real, place = weights > 0, inputs["masked_positions"]
    text = (rows["token_ids"] > MASK).sum(axis=1)
    assert real.sum(axis=1).tolist() == np.round(0.15 * text).tolist()
    assert labels[real].min() > MASK
    np.testing.assert_array_equal(np.take_along_axis(rows["token_ids"], place, 1), labels)
    replaced = np.take_along_axis(inputs["token_ids"], place, 1)
    changed = inputs["token_ids"] != rows["token_ids"]
    assert changed.sum() == (replaced != labels)[real].sum()
    assert np.mean(replaced[real] == MASK) == pytest.approx(0.8, abs=0.02)
    assert np.mean(replaced[real] == labels[real]) == pytest.approx(0.1, abs=0.02)
    assert all(len(set(row[kept])) == kept.sum() for row, kept in zip(place, real, strict=True))


def test_batches_depend_on_the_seed_and_the_step_alone(benchmark, path):
    corpus = benchmark.Corpus(path)
    rows = corpus.rows("train", T, B)

    def ids(seed, first, last):
        batches = benchmark.Batches(corpus, rows, batch=B, seed=seed, first=first, last=last)
        return [batches[index][0]["token_ids"] for index in range(len(batches))]

    whole, rest = ids(1, 0, 5), ids(1, 2, 5)
    np.testing.assert_array_equal(whole[2:], rest)
    assert len({batch.tobytes() for batch in (*whole, *ids(2, 0, 5))}) == 10


def command(benchmark, monkeypatch, folder, path):
    """The command line, with its results in the folder."""

    def call(*arguments):
        setting = f"--length={T}", f"--batch={B}", f"--corpus={path}", f"--output={folder}"
        monkeypatch.setattr(sys, "argv", ["modern_encoder.py", *arguments, *setting])
        benchmark.main()

    return call


def lines(folder):
    return list(map(json.loads, (folder / "modern_encoder.jsonl").read_text().splitlines()))


def test_a_run_trains_without_tensorflow(benchmark, path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it fails
    for name, value in {"LAYERS": 1, "WIDTH": 16, "EVERY": 20}.items():
        monkeypatch.setattr(benchmark, name, value)
    call = command(benchmark, monkeypatch, tmp_path, path)
    call("train", "--steps=50", "--rate=0.05", "--part=rates")
    (line,) = lines(tmp_path)
    assert [look["step"] for look in line["curve"]] == [20, 40, 50]
    seconds = [look["seconds"] for look in line["curve"]]
    assert seconds == sorted(seconds) and seconds[-1] == line["seconds"]
    assert line["masked_lm_loss"] == line["curve"][-1]["masked_lm_loss"] < 4 < np.log(V)
    assert (line["model"], line["part"], line["rate"]) == ("modern_bert", "rates", 0.05)


def test_equal_time_gives_the_faster_model_more_steps(benchmark, path, tmp_path, monkeypatch):
    """With trainings that only write a line: ModernBERT's step takes one and a half of BERT's."""

    def train(options):
        seconds = (options.steps - 2) * {"bert": 2, "modern_bert": 3}[options.model]
        loss = {"masked_lm_loss": abs(options.rate - 2e-3), "masked_lm_accuracy": 0.5}
        curve = [{"step": options.steps, "seconds": seconds, **loss}]
        record = {**benchmark.case(options), **curve[0], "steps": options.steps, "curve": curve}
        benchmark.keep(record, options.output / "modern_encoder.jsonl")

    call = command(benchmark, monkeypatch, tmp_path, path)
    monkeypatch.setattr(benchmark, "train", train)
    monkeypatch.setattr(benchmark, "start", call)
    given = "--seeds=2", "--steps=12"
    call("rates", *given)
    tried = 2 * len(benchmark.RATES)
    assert [line["steps"] for line in lines(tmp_path)] == tried * [6]
    call("all", *given)
    names = "part", "model", "seed", "steps", "rate"
    found = [tuple(line[name] for name in names) for line in lines(tmp_path)[tried:]]
    wanted = [
        ("equal steps", "bert", 1, 12, 2e-3),
        ("equal steps", "modern_bert", 1, 12, 2e-3),
        ("equal steps", "bert", 2, 12, 2e-3),
        ("equal steps", "modern_bert", 2, 12, 2e-3),
        ("equal time", "bert", 1, 2 + 15, 2e-3),
        ("equal time", "bert", 2, 2 + 15, 2e-3),
    ]
    assert found == wanted
    assert (tmp_path / "modern_encoder.png").is_file()

    # The same command goes on with what has no result.
    kept = (tmp_path / "modern_encoder.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "modern_encoder.jsonl").write_text("".join(kept[: tried + 2] + kept[tried + 3 :]))
    call("all", *given)
    found = [tuple(line[name] for name in names) for line in lines(tmp_path)[tried:]]
    assert found == [*wanted[:2], *wanted[3:], wanted[2]]
