"""The output folder of a run: files of others are never removed or overwritten."""

import argparse
import importlib
import json
import pathlib
import runpy
import shlex
import signal
import sys

import pytest

from keras_attn import data

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
RESUMABLE = [
    "bert_choice",
    "bert_pretrain",
    "distributed",
    "generate_text",
    "sentence_search",
    "translate_rnn_attention",
    "translate_transformer",
]
OVERWRITING = [
    "attention_it",
    "bert_classify",
    "bert_pairs",
    "bert_records",
    "bert_span",
    "bert_tag",
    "contextual_words",
    "why_attention",
]
ADDING = ["serve_bert", "serve_translation"]
PRINTING = ["long_documents"]

pytestmark = pytest.mark.backends("tensorflow", reason="the examples' own backend")


@pytest.fixture
def example(monkeypatch):
    """A function: the name of an example -> its module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.fixture
def check(example, tmp_path):
    """A function: the given options -> the checked options of a run in tmp_path / "run"."""
    runs = example("_runs")
    parser = runs.options("A test.", "run", resume=True)
    parser.add_argument("--steps", type=int, default=5)

    def given(*options, folder=tmp_path / "run"):
        return runs.start(main, parser, [*options, "--output", str(folder)])

    return given


@pytest.fixture
def start(example, check):
    """The same, of a run that begins."""

    def begin(*options, **folder):
        arguments = check(*options, **folder)
        example("_runs").begin(arguments)
        return arguments

    return begin


def main(arguments):
    """The main function of a fake example."""


def finish(folder):
    """Write the files that a run leaves."""
    for name in (
        "model.keras",
        "vocab.txt",
        "checkpoints/step-0000000200.npz",
        "logs/train/events.out.tfevents.1.host",
        "servable/1/saved_model.pb",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("from a run")


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("option", [[], ["--overwrite"], ["--resume"]])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"thesis.txt": "years of work"}, "thesis.txt"),
        ({"model.keras": "of somebody", "a": "", "b": "", "c": ""}, "a, b, c, ..."),
        ({"run.json": "not ours"}, "run.json"),
        ({"run.json": "[1]", "x": ""}, "run.json, x"),
        ({"run.json": '{"example": "other.py", "options": []}'}, "a run of other.py"),
        ({"run.json": '{"example": "test_run_folders.py", "options": "--steps 3"}'}, "run.json"),
        ({"run.json": '{"example": "test_run_folders.py", "options": [3, null]}'}, "run.json"),
        ({"run.json": '{"example": "test_run_folders.py"}'}, "run.json"),
    ],
)
def test_a_folder_with_other_files_raises_and_is_not_changed(
    start, tmp_path, option, content, found
):
    folder = tmp_path / "run"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    before = files(folder)
    with pytest.raises(SystemExit) as refused:
        start(*option)
    assert str(refused.value) == (
        "`--output` must be a new or empty folder, or that of an earlier run of "
        f"test_run_folders.py, got {folder} ({found}): nothing was changed, choose another --output"
    )
    assert files(folder) == before


def test_a_file_as_output_folder_raises(start, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(SystemExit, match=r"got .*run \(a file\)"):
        start("--overwrite")
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file/below", "Not a directory"),
        ("link", "File exists"),
        ("long" * 100, "File name too long"),
    ],
)
def test_an_output_folder_that_cannot_be_created_raises(check, tmp_path, name, reason):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(SystemExit) as refused:
        check(folder=tmp_path / name)
    assert str(refused.value) == (
        f"`--output` must be a folder that can be created, got {tmp_path / name}: {reason}"
    )


@pytest.mark.parametrize("option", ["--overwrite", "--resume"])
def test_a_run_that_ends_before_it_begins_changes_nothing(start, check, tmp_path, option):
    start()
    finish(tmp_path / "run")
    before = files(tmp_path / "run")
    assert check(option, "--steps", "9").steps == 9  # and then the example refuses it
    assert files(tmp_path / "run") == before
    assert start("--resume").steps == 5


def test_the_next_command_of_bert_records_is_quoted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "write_records", lambda *arguments, **options: None)
    monkeypatch.setattr(sys, "argv", ["it", "--output", str(tmp_path / "a run"), "--text", "t"])
    (tmp_path / "t").write_text("open the table")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "bert_records.py"), run_name="__main__")
    command = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(command)[-2:] == ["--records", str(tmp_path / "a run")]


def test_a_second_run_in_the_same_folder_raises(start, tmp_path):
    start()
    start("--steps", "6")  # allowed, since the first run wrote nothing
    finish(tmp_path / "run")
    before = files(tmp_path / "run")
    with pytest.raises(SystemExit, match=r"holds an earlier run .* --resume .* --overwrite"):
        start()
    assert files(tmp_path / "run") == before


def test_overwriting_keeps_served_versions_and_other_files(start, tmp_path):
    folder = tmp_path / "run"
    start()
    finish(folder)
    (folder / "checkpoints" / "notes.txt").write_text("mine")
    (folder / "checkpoints" / "step-mine.npz").write_text("mine")
    (folder / "servable" / "2").mkdir()
    (folder / "servable" / "2" / "model.keras").write_text("served")
    (folder / "plans.txt").write_text("mine")
    before = set(files(folder))
    start("--overwrite", "--steps", "7")
    assert before - set(files(folder)) == {
        "model.keras",
        "checkpoints/step-0000000200.npz",
        "logs/train/events.out.tfevents.1.host",
    }
    assert json.loads((folder / "run.json").read_text())["options"][:2] == ["--steps", "7"]


def test_a_resumed_run_keeps_its_files_and_its_options(start, tmp_path):
    folder = tmp_path / "run"
    assert start("--overwrite", "--steps", "7").steps == 7
    finish(folder)
    before = set(files(folder))
    moved = folder.rename(tmp_path / "moved")
    resumed = start("--resume", folder=moved)
    assert (resumed.steps, resumed.output) == (7, moved)
    assert set(files(moved)) == before
    assert start("--resume", "--steps", "9", folder=moved).steps == 9
    assert start("--resume", folder=moved).steps == 9


def test_only_the_first_worker_writes_to_the_folder(example, tmp_path):
    runs, folder = example("_runs"), tmp_path / "run"
    parser = runs.options("A test.", "run", resume=True)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--index", type=int, default=0)

    def begin(*given):
        arguments = runs.start(main, parser, [*given, "--output", str(folder)])
        runs.begin(arguments)
        return arguments

    assert begin("--index", "1").index == 1
    assert not folder.exists()
    begin("--steps", "7")
    finish(folder)
    before = files(folder)
    begin("--index", "1", "--overwrite")
    resumed = begin("--index", "1", "--resume", "--steps", "9")
    assert (resumed.steps, resumed.index, resumed.output) == (9, 1, folder)
    assert begin("--index", "1", "--resume").steps == 7
    assert files(folder) == before


def test_resuming_without_a_run_raises(start, tmp_path):
    with pytest.raises(SystemExit, match="which holds none: start a run without --resume"):
        start("--resume")
    assert not (tmp_path / "run").exists()


def test_searching_needs_a_run_and_changes_nothing(example, tmp_path, monkeypatch):
    runs, searching = example("_runs"), example("sentence_search")
    folder = tmp_path / "run"

    def check(*options):
        given = [*options, "--output", str(folder)]
        return runs.start(searching.main, searching.options(), given)

    with pytest.raises(SystemExit, match="which holds none: start a run without --search"):
        check("--search", "a row")
    assert not folder.exists()
    runs.begin(check("--steps", "7"))
    finish(folder)
    before = files(folder)
    arguments = check("--search", "a row")
    assert (arguments.steps, arguments.search) == (7, "a row")
    with pytest.raises(SystemExit, match="--search needs a completed run, got .*run, which"):
        searching.main(arguments)
    assert files(folder) == before


def test_every_example_has_the_options_that_it_needs(example):
    names = [path.stem for path in EXAMPLES.glob("[!_]*.py")]
    assert sorted(names) == sorted([*RESUMABLE, *OVERWRITING, *ADDING, *PRINTING])
    for name in names:
        assert "--help" in example(name).options().format_help()
        options = example(name).options().parse_args([])
        assert ("resume" in options) == (name in RESUMABLE), name
        assert ("overwrite" in options) == (name in RESUMABLE + OVERWRITING), name
        assert ("output" in options) == (name not in PRINTING), name


@pytest.mark.parametrize("resume", [True, False])
def test_an_interrupt_prints_one_line_with_the_resume_command(
    example, tmp_path, monkeypatch, capsys, resume
):
    runs, folder = example("_runs"), tmp_path / "a run"
    monkeypatch.setattr(sys, "argv", ["examples/it.py", "--output", str(folder)])
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a background job may ignore it

    def interrupted(arguments: argparse.Namespace) -> None:
        runs.begin(arguments)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit) as stopped:
        runs.run(interrupted, runs.options("A test.", "run", resume=resume))
    signal.signal(signal.SIGINT, before)
    assert stopped.value.code == 130
    line = f"; to resume: python examples/it.py --resume --output '{folder}'" if resume else ""
    assert capsys.readouterr().err == f"\nstopped{line}\n"
