import json

import pytest

from keras_attn.data import (
    Examples,
    read_choices,
    read_entities,
    read_examples,
    read_rows,
    read_squad,
)

LABEL = {"labels": lambda row: [row[-1]]}


def write(path, text):
    path.write_text(text, encoding="utf-8-sig")
    return path


def rows(path):
    return read_rows(path, "text", "label")


def test_rows_with_an_empty_cell_are_skipped_and_reported(tmp_path):
    file = write(tmp_path / "a.csv", "id,label,text\n1,x,one\n2,,two\n\n4,y, \n5,y,five\n")
    read = rows(file)
    assert read.rows == [("one", "x"), ("five", "y")]
    assert [place.rsplit("/")[-1] for place in read.places] == ["a.csv, line 2", "a.csv, line 6"]
    assert read.skipped == [f"{file}, line 3: 'label' is empty", f"{file}, line 5: 'text' is empty"]
    assert read.report() == f"skipped 2 of 4 rows, the first: {file}, line 3: 'label' is empty"
    assert Examples([], []).report() == ""


def test_skipped_rows_are_reported_once_when_a_file_is_split(tmp_path):
    lines = ["text,label", *(f"{n},{'xy'[n % 2]}" for n in range(8)), "eight,", ",x"]
    file = write(tmp_path / "a.csv", "\n".join(lines))
    train, held_out = read_examples(file, rows, held_out=0.4, **LABEL)
    assert (len(train), len(held_out)) == (5, 3)
    report = f"skipped 2 of 10 rows, the first: {file}, line 10: 'label' is empty"
    assert (train.report(), held_out.report()) == (report, "")


def test_missing_columns_and_files_without_examples_raise(tmp_path):
    with pytest.raises(ValueError, match="`columns` must be names of columns, got none"):
        read_rows(tmp_path / "a.tsv")
    file = write(tmp_path / "a.tsv", "text\tlabels\na\tb\n")
    with pytest.raises(ValueError, match="a.tsv must have the columns text, label, got text, lab"):
        rows(file)
    file = write(tmp_path / "b.csv", "text,label\na,\n")
    with pytest.raises(ValueError, match="got .*b.csv without any .skipped 1 of 1 rows, the first"):
        rows(file)


def test_rows_with_a_label_found_only_in_the_second_file_are_skipped(tmp_path):
    train = write(tmp_path / "a.csv", "text,label\none,x\ntwo,y\n")
    test = write(tmp_path / "b.csv", "text,label\none,x\ntwo,z\n")
    first, second = read_examples([train, test], rows, **LABEL)
    assert first.rows == [("one", "x"), ("two", "y")]
    assert second.rows == [("one", "x")]
    assert second.skipped == [f"{test}, line 3: 'z' is not among x, y of {train}"]
    only = write(tmp_path / "c.csv", "text,label\none,X\ntwo,Y\n")
    with pytest.raises(
        ValueError, match="one held-out example, got 0 of .*c.csv .skipped 2 of 2 rows, .*X"
    ):
        read_examples([train, only], rows, **LABEL)


@pytest.mark.parametrize("seed", range(9))
def test_every_label_of_one_file_is_in_the_training_split(seed, tmp_path):
    lines = ["text,label", *(f"{n},{label}" for n, label in enumerate("xxyyz"))]
    file = write(tmp_path / "a.csv", "\n".join(lines))
    train, held_out = read_examples(file, rows, held_out=0.6, seed=seed, **LABEL)
    assert sorted(train.rows + held_out.rows) == rows(file).rows
    assert {label for _, label in train.rows} == set("xyz")
    assert len(held_out) >= 1
    places = dict(zip(train.rows + held_out.rows, train.places + held_out.places, strict=True))
    assert places[("4", "z")] == f"{file}, line 6"


def test_too_few_examples_or_labels_raise(tmp_path):
    two = write(tmp_path / "a.csv", "text,label\none,x\ntwo,y\nthree,\n")
    with pytest.raises(
        ValueError, match="two examples or more have, got 2 examples in .*skipped 1"
    ):
        read_examples(two, rows, **LABEL)
    with pytest.raises(ValueError, match="at least two training examples and .* got 1 of .*a.c"):
        read_examples(two, rows)
    one = write(tmp_path / "b.csv", "text,label\none,x\nagain,x\n")
    with pytest.raises(ValueError, match="must have two labels or more, got x in .*b.csv"):
        read_examples([one, two], rows, **LABEL)
    with pytest.raises(ValueError, match="`files` must be one file or two, got 3"):
        read_examples([one] * 3, rows)


def test_groups_are_not_split():
    read = Examples([(n, n // 3) for n in range(30)], [str(n) for n in range(30)])
    train, held_out = read.split(0.2, seed=3, group=lambda row: row[1])
    assert len(held_out) == 6
    assert not {group for _, group in train.rows} & {group for _, group in held_out.rows}


def test_choices_are_read_in_the_order_of_their_numbers(tmp_path):
    lines = [
        "prompt,choice_10,choice_2,answer",
        "p,right,left,1",
        "q,right,,0",
        "r,right,left,2",
        "s,right,left,first",
        "t,right,left, 0",
    ]
    file = write(tmp_path / "a.csv", "\n".join(lines))
    read = read_choices(file)
    assert read.rows == [("p", ["left", "right"], 1), ("t", ["left", "right"], 0)]
    assert [text.removeprefix(f"{file}, ") for text in read.skipped] == [
        "line 3: 'choice_2' is empty",
        "line 4: 'answer' must be from 0 to 1, got '2'",
        "line 5: 'answer' must be from 0 to 1, got 'first'",
    ]
    with pytest.raises(
        ValueError, match="b.csv must have the columns prompt, .* got 1 columns of choices"
    ):
        read_choices(write(tmp_path / "b.csv", "prompt,choice_0,answer\na,b,0\n"))


def test_entities_are_read_and_tags_of_another_scheme_raise(tmp_path):
    file = write(tmp_path / "a.txt", "\nAnn S-X\nsang O\n\n# x\nat B-Y\nten E-Y\n")
    read = read_entities(file)
    assert read.rows == [(["Ann", "sang"], ["S-X", "O"]), (["at", "ten"], ["B-Y", "E-Y"])]
    assert read.places == [f"{file}, line 2", f"{file}, line 6"]
    for tag in ("NOUN", "B", "X-Y", "B-", "o"):
        other = write(tmp_path / "b.txt", f"a O\n\nb O\nc {tag}\n")
        with pytest.raises(ValueError, match=f"b.txt, line 3: a tag must be O, .*, got '{tag}'"):
            read_entities(other)
    with pytest.raises(ValueError, match="got .*c.txt without any"):
        read_entities(write(tmp_path / "c.txt", "\n\n"))


CONTEXT = "Ann sang 大声 loud"


def squad(path, *questions, context=CONTEXT):
    paragraphs = [{"context": context, "qas": list(questions)}]
    return write(path, json.dumps({"version": "2.0", "data": [{"paragraphs": paragraphs}]}))


def question(*answers, **more):
    found = [{"text": text, "answer_start": start} for text, start in answers]
    return {"question": "who?", "answers": found, **more}


def test_squad_questions_are_read_and_invalid_ones_skipped(tmp_path):
    file = squad(
        tmp_path / "a.json",
        question(("大声", 9)),
        question(),
        question(("loud", 12), is_impossible=True),
        question(("sang", 9), ("Ann sang", 0)),
        question(("loud", 11)),
        question(("loud", "12")),
        question(("Ann", -14)),
        question((" ", 3)),
        {"question": "what?"},
        {"question": float("nan"), "answers": []},
        None,
    )
    read = read_squad(file)
    assert read.rows == [
        ("who?", CONTEXT, ["大声"], 9),
        ("who?", CONTEXT, [], 0),
        ("who?", CONTEXT, [], 0),
        ("who?", CONTEXT, ["Ann sang", "sang"], 0),
    ]
    at = f"{file}, data[0].paragraphs[0].qas"
    assert read.places == [f"{at}[{n}]" for n in range(4)]
    misplaced = "`answer_start` must be the place of 'loud' in `context`, got"
    assert read.skipped[:2] == [f"{at}[4]: {misplaced} 11", f"{at}[5]: {misplaced} '12'"]
    assert [text.split(": ")[0] for text in read.skipped[2:]] == [
        f"{at}[{n}]" for n in range(6, 11)
    ]
    assert "`answers` must be a list, got None" in read.skipped[4]
    assert "`question` must be text, got nan" in read.skipped[5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"a SQuAD file must have a list `data` in .*a.json, got \[\]"),
        ('{"version": 1}', "must have a list `data` in .*a.json, got version"),
        ('{"data": [{"title": "x"}]}', r"a list `paragraphs` in .*a.json, data\[0\], got title"),
        ('{"data": [],\n}', "must be JSON, got .*a.json whose line 2 is not"),
        ('{"data": []}', "got .*a.json without any"),
    ],
)
def test_a_file_that_is_not_squad_raises(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_squad(write(tmp_path / "a.json", content))


def test_a_squad_file_without_answers_raises(tmp_path):
    file = squad(tmp_path / "a.json", {"question": "who?"}, {"question": "what?"})
    with pytest.raises(ValueError, match="without any .skipped 2 of 2 rows, .*`answers` must be"):
        read_squad(file)
