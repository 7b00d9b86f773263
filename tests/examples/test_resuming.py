"""A resumed run that its checkpoint refuses: nothing is written before."""

import importlib
import itertools
import json

import keras
import numpy as np
import pytest

from keras_attn import training
from tests.examples.runner import refusal
from tests.examples.test_run_folders import EXAMPLES, RESUMABLE, files, finish

pytestmark = pytest.mark.backends("tensorflow", reason="the examples' own backend")


def main(arguments):
    """The main function of a fake example."""


def test_a_resumed_run_that_its_checkpoint_refuses_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runs, folder = importlib.import_module("_runs"), tmp_path / "run"
    parser = runs.options("A test.", "run", resume=True)
    parser.add_argument("--steps", type=int, default=5)
    batch = np.ones((2, 3)), np.ones((2, 1))

    def check(*options):
        return runs.start(main, parser, [*options, "--output", str(folder)])

    def train(arguments, **differs):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", jit_compile=False)
        arguments.seed = 1
        content = {"rows": batch[0], "vocabulary": ["a"], "batch_size": 2, "steps_per_epoch": 1}
        identity = runs.identity(arguments, **{**content, **differs})
        checkpoint = training.TrainingCheckpoint(folder / "checkpoints", data=identity)
        step = runs.restore(arguments, checkpoint, model, batch)
        if not step:
            model.fit(
                (batch for _ in itertools.count()),
                steps_per_epoch=1,
                callbacks=[checkpoint],
                verbose=0,
                shuffle=False,
            )
        return step

    assert train(check()) == 0
    before = files(folder)
    for name, other in (("rows", [[1]]), ("vocabulary", ["b"]), ("steps_per_epoch", 2)):
        with pytest.raises(
            SystemExit, match=rf"--resume is not possible: `data` must be .*{name}"
        ) as refused:
            train(check("--resume", "--steps", "9"), **{name: other})
        assert "batch_size" not in str(refused.value)  # only what differs
        assert files(folder) == before
    assert train(check("--resume", "--steps", "9")) == 1
    assert check("--resume").steps == 9


TEXTS = ["open the table and fill each cell of it", "close this chart or draw another line here"]


@pytest.mark.parametrize("name", [name for name in RESUMABLE if "bert_choice" not in name])
def test_resuming_with_another_text_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, name
):
    given = []

    def refuse(checkpoint, model, batch):
        given.append(checkpoint.data)
        raise ValueError("other data")

    monkeypatch.setattr(training.TrainingCheckpoint, "restore", refuse)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"example": f"{name}.py", "options": []}))
    finish(folder)
    before = files(folder)
    option = "--data" if name.startswith(("translate", "sentence")) else "--text"
    size = {
        "bert_pretrain": "bert_tiny",
        "sentence_search": "bert_tiny",
        "translate_rnn_attention": "8",
        "translate_transformer": "transformer_tiny",
    }.get(name, "gpt_tiny")
    rng = np.random.default_rng(0)
    for number, words in enumerate(TEXTS):
        path = tmp_path / f"{number}.txt"
        if option == "--data":
            drawn = [rng.choice(words.split(), 5) for _ in range(200)]
            rows = [f"{i // 2}\t{' '.join(row)}\t{' '.join(row)}" for i, row in enumerate(drawn)]
            path.write_text("\n".join(["document\ten\tde", *rows]))
        else:
            path.write_text("\n\n".join([f"{words}\n{words}\n" * 30] * 100))
        options = "--resume", "--output", folder, option, path, "--size", size
        printed = refusal(monkeypatch, name, *options, cwd=tmp_path)
        assert printed == "--resume is not possible: other data"
        assert files(folder) == before
    assert given[0]["vocabulary"] != given[1]["vocabulary"]
