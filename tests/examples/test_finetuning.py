"""The fine-tuning examples, run small, and their functions."""

import importlib
import json
import pathlib
import sys

import keras
import numpy as np
import pytest

from keras_attn import export, weights
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


def save_encoder(directory, **options):
    options |= {"max_length": 64, "hidden_dim": 16, "dropout": 0.0}
    model = bert.encoder("bert_tiny", vocabulary_size=len(VOCABULARY), **options)
    weights.save(model, directory, vocabulary=VOCABULARY, lowercase=True)
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def files(tmp_path):
    """A user's file for each example: 40 rows, which one word decides."""
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
    example("_runs").run(module.main, module.options())


def test_bert_classify_trains_and_saves_a_servable_model(
    example, files, tmp_path, monkeypatch, capsys
):
    checkpoint = save_encoder(tmp_path / "checkpoint", num_layers=1)
    options = ["--checkpoint", checkpoint, "--data", files["bert_classify"], "--steps", 12]
    run(example, "bert_classify", monkeypatch, *options, "--output", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "8 held-out texts" in printed and "naive Bayes" in printed
    assert printed.index("saved in") < printed.index("held-out texts")
    assert "(the default run should reach" in printed.splitlines()[-1]

    model, layers = example("_shared").load(tmp_path / "out")
    features = layers["preprocessor"](["table, click", "row"])
    answer = layers["postprocessor"](model(features), features)
    assert answer["probabilities"].shape == (2, 3)
    assert set(answer["label"].numpy()) <= {b"table", b"row", b"cell"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_example_trains_and_its_model_can_be_published(
    name, example, checkpoint, files, tmp_path, monkeypatch, capsys
):
    options = ["--checkpoint", checkpoint, "--data", files[name], files[name], "--steps", 12]
    run(example, name, monkeypatch, *options, "--output", tmp_path / "out")
    printed = capsys.readouterr().out
    assert printed.index("saved in") < printed.index(" held-out ")
    assert "(the default run should reach" in printed.splitlines()[-1]
    model, layers = example("_shared").load(tmp_path / "out")
    servable = export.publish(
        model, tmp_path / "servable", signatures=["serving_default"], **layers
    )
    inputs, outputs = servable.signatures["serving_default"]
    assert set(inputs) == set(layers["preprocessor"].text_inputs)
    assert outputs


@pytest.mark.slow
def test_lora_learns_only_updates_of_queries_and_values_in_the_encoder(
    example, checkpoint, files, tmp_path, monkeypatch
):
    options = ["--checkpoint", checkpoint, "--data", files["bert_tag"], "--steps", 8, "--lora", 2]
    run(example, "bert_tag", monkeypatch, *options, "--output", tmp_path / "out")
    model, _ = example("_shared").load(tmp_path / "out")
    before = {weight.path: weight for weight in weights.load(checkpoint).model.weights}
    for weight in model.weights:
        if weight.path in before:
            assert np.array_equal(weight, before[weight.path]), weight.path
    learned = {w.path for w in model.weights if w.path.endswith("lora_kernel_b") and np.any(w)}
    assert learned == {
        f"block_{n}/self_attention/{part}/lora_kernel_b"
        for n in (0, 1)
        for part in ("query", "value")
    }


@pytest.mark.slow
def test_an_interrupted_run_of_bert_choice_resumes_to_the_same_weights(
    example, checkpoint, files, tmp_path, monkeypatch, capsys
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    options = ["--checkpoint", checkpoint, "--data", files["bert_choice"], "--steps", 16]
    monkeypatch.setattr(example("bert_choice"), "SAVE_EVERY", 3)
    run(example, "bert_choice", monkeypatch, *options, "--output", tmp_path / "whole")
    halves = [*options, "--output", tmp_path / "halves"]
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(keras.Model, "evaluate", interrupt)  # at the end of the first epoch
        run(example, "bert_choice", patched, *halves)
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"stopped; to resume: python bert_choice.py --resume --output {tmp_path / 'halves'}"
    )
    assert [path.stem[-1] for path in (tmp_path / "halves" / "checkpoints").iterdir()] == ["3"]
    run(example, "bert_choice", monkeypatch, "--resume", "--output", tmp_path / "halves")
    first, second = (example("_shared").load(tmp_path / name)[0] for name in ("whole", "halves"))
    for weight, again in zip(first.weights, second.weights, strict=True):
        assert np.array_equal(weight, again), weight.path


@pytest.mark.slow
def test_a_missing_encoder_is_pretrained_once(example, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(example("_shared"), "SHORT_STEPS", 2)
    options = ["--data", files["bert_classify"], "--steps", 6, "--overwrite"]
    for count in (1, 0):  # the second time it exists
        run(example, "bert_classify", monkeypatch, *options)
        assert capsys.readouterr().out.count("training bert_pretrain.py for 2 steps") == count


def test_lower_layers_have_lower_learning_rates(example):
    encoder = bert.encoder("bert_tiny", vocabulary_size=11, hidden_dim=8, dropout=0.0)
    optimizer = example("bert_pairs").layer_wise(1.0, 10, encoder)
    optimizer.build(encoder.trainable_variables)
    decay = example("bert_pairs").DECAY
    expected = {"pooler": 0, "block_1": 1, "block_0": 2, "embedding": 3}
    for variable in encoder.trainable_variables:
        index = optimizer._var_to_optimizer_idx[optimizer._var_key(variable)]
        peak = optimizer.optimizers[index].get_config()["learning_rate"]["config"]["peak"]
        assert peak == pytest.approx(decay ** expected[variable.path.split("/")[0]])


def test_tags_encode_case_and_punctuation(example):
    words, tags = example("bert_tag").case_and_marks("Click OK, then LibreOffice: ... starts A.")
    assert words == ["click", "ok", "then", "libreoffice", "starts", "a"]
    assert tags == ["B-Capital", "B-UPPER,", "O", "B-miXed:", "O", "B-Capital."]


def test_truncated_words_lower_the_recall(example):
    logits = np.array([[[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]])
    first = np.array([[0.0, 1.0, 0.0]])
    scores = example("bert_tag").score(logits, first, [(["a", "b"], ["B-X", "B-X"])], ["O", "B-X"])
    assert scores == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}


PAGE = [f"paragraph {n} of this page tells more" for n in "abcd"]
OTHER = [f"what stands here is number {n} there" for n in "efg"]
PAGES = {"swriter/one": PAGE, "swriter/two": OTHER, "scalc/three": ["a lonely page with six words"]}


def test_pairs_come_from_one_page_or_from_two_pages_of_one_module(example):
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


def test_masked_names_are_answers_at_their_position_in_the_context(example):
    page = [
        "Choose Insert - Table to open the Table dialog.",
        "A Table has rows. See Insert - Table.",
    ]
    found = example("bert_span").questions(page)
    assert ("Choose [MASK] to open the Table dialog.", page[1], ["Insert - Table"], 22) in found
    for _, context, (answer,), start in found:
        assert context[start:].startswith(answer)


def squad(*questions, **more):
    """A SQuAD file whose questions are about two texts; `more` goes to its top level."""
    contexts = ["the table has a row", "the cell holds a chart"]
    paragraphs = [
        {
            "context": context,
            "qas": [
                {"question": question, "answers": [{"text": answer, "answer_start": start}]}
                for at, question, answer, start in questions
                if at == number
            ],
        }
        for number, context in enumerate(contexts)
    ]
    return json.dumps({"data": [{"paragraphs": paragraphs}]} | more)


GOOD = "text,label\none,x\ntwo,y\nthree,x\nfour,y\n"
SQUAD = [(0, "a", "table", 4), (0, "b", "row", 16), (1, "c", "cell", 4), (1, "d", "chart", 17)]
TABLE = "prompt\tchoice_0\tchoice_1\tanswer\np\ta\tb\t0\nq\tc\td\t1\ns\tg\th\t1\n"


@pytest.mark.parametrize(
    ("name", "files", "skipped"),
    [
        ("bert_classify", {"a.CSV": GOOD, "b.csv": "text,label\nfive,x\nsix,z\n"}, "'z' is not"),
        ("bert_classify", {"a.csv": GOOD + "five,\n\n"}, "line 6: 'label' is empty"),
        ("bert_pairs", {"a.csv": "first,second,label\na,b,x\na,,y\nc,d,y\ne,f,x\n"}, "'second'"),
        ("bert_tag", {"a": "a O\n\nb B-X\n", "b": "a O\n\nb B-Y\n"}, "'B-Y' is not among B-X, O"),
        ("bert_choice", {"a.tsv": TABLE + "r\te\tf\t2\n"}, "'answer' must be from 0 to 1"),
        (
            "bert_span",
            {"a.json": squad(*SQUAD, (1, "e", "chart", 16))},
            "must be the place of 'chart'",
        ),
    ],
)
def test_invalid_rows_are_skipped_before_training(name, files, skipped, example, tmp_path, capsys):
    paths = [tmp_path / file for file in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.write_text(text, encoding="utf-8-sig")
    train, held_out = example(name).read(paths)
    assert len(train) and len(held_out)
    printed = capsys.readouterr().out
    assert "skipped 1 of " in printed and skipped in printed
    for row in [*train, *held_out]:
        assert "\ufeff" not in str(row)


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("bert_classify", {"a.csv": "words,label\nx,y\n"}, "must have the columns text, label"),
        ("bert_classify", {"a.csv": "text,label\none,x\ntwo,y\n"}, "two examples or more have"),
        ("bert_pairs", {"a.csv": "first,second,label\na,b,x\nc,d,x\n"}, "two labels or more"),
        ("bert_tag", {"a": "a O\n\nb B\n\nc O\n"}, "a, line 3: a tag must be O, or B-"),
        (
            "bert_choice",
            {
                "a.tsv": TABLE,
                "b.tsv": "prompt\tchoice_0\tchoice_1\tchoice_2\tanswer\np\ta\tb\tc\t2\n",
            },
            "the same number of choices, got 2 in .*a.tsv and 3 in .*b.tsv",
        ),
        ("bert_span", {"a.json": "{}"}, "must have a list `data`"),
        ("bert_span", {"a.json": squad(SQUAD[0])}, "two examples or more"),
        ("bert_span", {}, "No such file"),
    ],
)
def test_invalid_files_raise_before_training(name, files, message, example, tmp_path):
    for file, text in files.items():
        (tmp_path / file).write_text(text, encoding="utf-8-sig")
    paths = [tmp_path / file for file in files or ["missing.json"]]
    with pytest.raises(SystemExit, match=message):
        example(name).read(paths)


def test_a_label_found_only_in_the_validation_set_is_a_class(example):
    train = [("one", "x"), ("two", "x"), ("three", "y")]
    assert example("bert_classify").class_weights(train, ["x", "y", "z"]) == {0: 0.5, 1: 1, 2: 1}
    found = example("bert_classify").naive_bayes(train, train, ["x", "y", "z"])
    assert np.isfinite(found).all()
