"""The fine-tuning examples, run small, and the pieces of logic in them."""

import importlib
import json
import pathlib
import sys

import keras
import numpy as np
import pytest

from keras_attn import data, export, weights
from keras_attn.models import bert

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
WORDS = ["table", "row", "cell", "chart", "font", "macro", "click", "open", "the", "a", "menu"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
NAMES = ["bert_classify", "bert_pairs", "bert_tag", "bert_span", "bert_choice"]

pytestmark = pytest.mark.backends("tensorflow", reason="strings are TensorFlow's")


@pytest.fixture
def example(monkeypatch):
    """A function: the name of an example -> its module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint")
    model = bert.encoder(
        "bert_tiny", vocabulary_size=len(VOCABULARY), max_length=64, hidden_dim=16, dropout=0.0
    )
    weights.save(model, directory, vocabulary=VOCABULARY, lowercase=True)
    return directory


@pytest.fixture
def files(tmp_path):
    """A file of a user's for each example: 40 rows, which a glance at one word solves."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 7)) for _ in range(40)]
    words = [WORDS[n % 3] for n in range(40)]
    tables = {
        "bert_classify.csv": [
            "text,label",
            *(f'"{word}, {text}",{word}' for text, word in zip(texts, words, strict=True)),
        ],
        "bert_pairs.tsv": [
            "first\tsecond\tlabel",
            *(f"{text}\t{word}\t{word}" for text, word in zip(texts, words, strict=True)),
        ],
        "bert_choice.tsv": [
            "prompt\tchoice_0\tchoice_1\tchoice_2\tanswer",
            *(f"{text}\t{' '.join(WORDS[:3])}\tthe\ta\t{n % 3}" for n, text in enumerate(texts)),
        ],
        "bert_tag.iob2": [
            line
            for text in texts
            for line in [*(f"{w} {'B-X' if w in WORDS[:3] else 'O'}" for w in text.split()), ""]
        ],
    }
    tables["bert_choice.tsv"] = [
        row.replace("table row cell", "row") for row in tables["bert_choice.tsv"]
    ]
    paragraphs = [
        {
            "context": text,
            "qas": [{"question": "a", "answers": [{"text": text.split()[0], "answer_start": 0}]}],
        }
        for text in texts
    ]
    tables["bert_span.json"] = [json.dumps({"data": [{"paragraphs": paragraphs}]})]
    found = {}
    for name, lines in tables.items():
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        found[path.stem] = path
    return found


def run(example, name, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    module = example(name)
    example("_shared").run(module.main, module.options())


def test_classify_learns_and_saves_what_can_be_served(
    example, checkpoint, files, tmp_path, monkeypatch, capsys
):
    options = ["--checkpoint", checkpoint, "--data", files["bert_classify"], "--steps", 12]
    run(example, "bert_classify", monkeypatch, *options, "--output", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "8 held-out texts" in printed and "naive Bayes" in printed
    assert "(the default run should reach" in printed.splitlines()[-1]

    model, layers = example("_encoder").load(tmp_path / "out")
    features = layers["preprocessor"](["table, click", "row"])
    answer = layers["postprocessor"](model(features), features)
    assert answer["probabilities"].shape == (2, 3)
    assert set(answer["label"].numpy()) <= {b"table", b"row", b"cell"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_runs_and_publishes(name, example, checkpoint, files, tmp_path, monkeypatch, capsys):
    options = ["--checkpoint", checkpoint, "--data", files[name], files[name], "--steps", 12]
    run(example, name, monkeypatch, *options, "--output", tmp_path / "out")
    assert "(the default run should reach" in capsys.readouterr().out.splitlines()[-1]
    model, layers = example("_encoder").load(tmp_path / "out")
    servable = export.publish(
        model, tmp_path / "servable", signatures=["serving_default"], **layers
    )
    inputs, outputs = servable.signatures["serving_default"]
    assert set(inputs) == set(layers["preprocessor"].text_inputs)
    assert outputs


@pytest.mark.slow
def test_lora_leaves_the_encoder_alone(example, checkpoint, files, tmp_path, monkeypatch):
    options = ["--checkpoint", checkpoint, "--data", files["bert_tag"], "--steps", 8, "--lora", 2]
    run(example, "bert_tag", monkeypatch, *options, "--output", tmp_path / "out")
    model, _ = example("_encoder").load(tmp_path / "out")
    before = {weight.path: weight for weight in weights.load(checkpoint).model.weights}
    changed = {
        weight.path
        for weight in model.weights
        if weight.path in before and not np.array_equal(weight, before[weight.path])
    }
    assert changed == {
        f"block_{n}/self_attention/{part}/kernel" for n in (0, 1) for part in ("query", "value")
    }


@pytest.mark.slow
def test_an_interrupted_choice_resumes_to_the_same_weights(
    example, checkpoint, files, tmp_path, monkeypatch, capsys
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    options = ["--checkpoint", checkpoint, "--data", files["bert_choice"], "--steps", 16]
    monkeypatch.setattr(example("bert_choice"), "SAVE_EVERY", 3)
    run(example, "bert_choice", monkeypatch, *options, "--output", tmp_path / "whole")
    halves = [*options, "--output", tmp_path / "halves"]
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(keras.Model, "evaluate", interrupt)  # at the end of the first part
        run(example, "bert_choice", patched, *halves)
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"stopped; to go on: python bert_choice.py --resume --output {tmp_path / 'halves'}"
    )
    assert [path.stem[-1] for path in (tmp_path / "halves" / "checkpoints").iterdir()] == ["3"]
    run(example, "bert_choice", monkeypatch, "--resume", "--output", tmp_path / "halves")
    first, second = (example("_encoder").load(tmp_path / name)[0] for name in ("whole", "halves"))
    for weight, again in zip(first.weights, second.weights, strict=True):
        assert np.array_equal(weight, again), weight.path


@pytest.mark.slow
def test_without_an_encoder_it_makes_one(example, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(example("_encoder"), "SHORT_STEPS", 2)
    options = ["--data", files["bert_classify"], "--steps", 6, "--overwrite"]
    for count in (1, 0):  # the second time it is there
        run(example, "bert_classify", monkeypatch, *options)
        assert capsys.readouterr().out.count("pre-training for 2 steps") == count


def test_lower_layers_take_smaller_steps(example):
    encoder = bert.encoder("bert_tiny", vocabulary_size=11, hidden_dim=8, dropout=0.0)
    optimizer = example("bert_pairs").layer_wise(1.0, 10, encoder)
    optimizer.build(encoder.trainable_variables)
    decay = example("bert_pairs").DECAY
    expected = {"pooler": 0, "block_1": 1, "block_0": 2, "embedding": 3}
    for variable in encoder.trainable_variables:
        index = optimizer._var_to_optimizer_idx[optimizer._var_key(variable)]
        peak = optimizer.optimizers[index].get_config()["learning_rate"]["config"]["peak"]
        assert peak == pytest.approx(decay ** expected[variable.path.split("/")[0]])


def test_case_and_marks(example):
    words, tags = example("bert_tag").case_and_marks("Click OK, then LibreOffice: ... starts A.")
    assert words == ["click", "ok", "then", "libreoffice", "starts", "a"]
    assert tags == ["B-Capital", "B-UPPER,", "O", "B-miXed:", "O", "B-Capital."]


def test_words_that_did_not_fit_are_missed(example):
    logits = np.array([[[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]])
    first = np.array([[0.0, 1.0, 0.0]])
    scores = example("bert_tag").score(logits, first, [(["a", "b"], ["B-X", "B-X"])], ["O", "B-X"])
    assert scores == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}


PAGE = [f"paragraph {n} of this page tells more" for n in "abcd"]
OTHER = [f"what stands here is number {n} there" for n in "efg"]
PAGES = {"swriter/one": PAGE, "swriter/two": OTHER, "scalc/three": ["a lonely page with six words"]}


def test_pairs_stand_on_one_page_or_on_two_of_one_part(example):
    module = example("bert_pairs")
    found = module.pairs(PAGES)
    together = [(first, second) for first, second, label in found if label == module.LABELS[0]]
    assert together == [*zip(PAGE, PAGE[1:], strict=False), *zip(OTHER, OTHER[1:], strict=False)]
    apart = [{first, second} for first, second, label in found if label == module.LABELS[1]]
    assert apart and all(len(pair & set(PAGE)) == 1 == len(pair & set(OTHER)) for pair in apart)


def test_the_right_choice_is_the_next_paragraph(example):
    found = example("bert_choice").questions(PAGES)
    assert found
    for prompt, choices, answer in found:
        page = PAGE if prompt in PAGE else OTHER
        assert choices[answer] == page[page.index(prompt) + 1]
        assert sum(choice in page for choice in choices) == 1 < len(choices)


def test_masked_names_stand_where_they_should(example):
    page = [
        "Choose Insert - Table to open the Table dialog.",
        "A Table has rows. See Insert - Table.",
    ]
    found = example("bert_span").questions(page)
    assert ("Choose [MASK] to open the Table dialog.", page[1], ["Insert - Table"], 22) in found
    for _, context, (answer,), start in found:
        assert context[start:].startswith(answer)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "a\tb\t\t0",
            "a prompt must have 2 choices and an answer from 0 to 1, got 1 and '0' for 'a'",
        ),
        ("a\tb\tc\t2", "got 2 and '2' for 'a'"),
    ],
)
def test_choices_of_unequal_number(example, rows, message, tmp_path):
    path = tmp_path / "choices.tsv"
    path.write_text(f"prompt\tchoice_0\tchoice_1\tanswer\n{rows}\n")
    with pytest.raises(SystemExit, match=message):
        example("bert_choice").read_choices(path)


def test_a_label_that_the_training_lacks(example):
    with pytest.raises(SystemExit, match="one that the training has, a, b, got 'c'"):
        example("_encoder").numbers(["a", "c"], ["a", "b"])


def test_a_column_that_a_table_lacks(example, tmp_path):
    (tmp_path / "table.csv").write_text("words,label\nx,y\n")
    with pytest.raises(SystemExit, match="must have the columns text, label, got words, label"):
        example("_encoder").read_cells(tmp_path / "table.csv", "text", "label")


def test_an_answer_that_is_not_in_its_context(example):
    module = example("bert_span")
    layer = module.make_preprocessor(32, data.BertTokenizer(VOCABULARY))
    with pytest.raises(ValueError, match="must stand in `context` at `answer_start`, got 'row'"):
        module.rows(layer, [[("a", "the table", ["row"], 4)]])
