import csv
import gzip
import pathlib

import pytest

from keras_attn.data import read_table, table_documents

CORPUS = pathlib.Path(__file__).parents[3] / "examples/data/libreoffice_help.tsv.gz"


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_the_corpus_has_the_documented_size():
    table = read_table(CORPUS)
    assert list(table) == ["document", "en", "de", "zh"]
    assert len(table["en"]) == 46815
    assert len(table_documents(table, "en")) == 2479
    assert sum(map(len, table_documents(table, "en", "de").values())) == 43430
    assert sum(map(len, table_documents(table, "en", "zh").values())) == 30316


def test_comma_separated_tables_are_read(tmp_path):
    content = 'text,label\r\n"a, ""b""",x\r\n"two\nlines",y\r\n'
    expected = {"text": ['a, "b"', "two\nlines"], "label": ["x", "y"]}
    assert read_table(write(tmp_path / "a.csv", content)) == expected
    packed = write(tmp_path / "a.csv.gz", gzip.compress(content.encode()))
    assert read_table(packed) == expected
    with pytest.raises(ValueError, match=r"a.csv whose line 3 has 1"):
        read_table(write(tmp_path / "a.csv", "text,label\nb,x\nc\n"))
    with pytest.raises(ValueError, match=r"must be a table, got .*a.csv whose line 2 is not"):
        read_table(write(tmp_path / "a.csv", 'text,label\n"b" c,x\n'))


def test_invalid_tables_raise(tmp_path):
    uneven = write(tmp_path / "uneven.tsv", "document\ten\np\ta\np\tb\tc\n")
    with pytest.raises(
        ValueError, match=r"must have 2 columns in every line, got .*uneven.tsv whose line 3 has 3"
    ):
        read_table(uneven)
    with pytest.raises(ValueError, match=r"must be a table with a header line, got .*none.tsv"):
        read_table(write(tmp_path / "none.tsv", ""))
    with pytest.raises(ValueError, match="`columns` must be among document, en, got 'fr'"):
        table_documents({"document": [], "en": []}, "fr")


@pytest.mark.parametrize("name", ["a.CSV", "a.Csv.GZ", "a.csv"])
def test_file_endings_may_be_upper_case(name, tmp_path):
    content = b'a,b\n"x, y",z\n'
    content = gzip.compress(content) if name.endswith("GZ") else content
    assert read_table(write(tmp_path / name, content)) == {"a": ["x, y"], "b": ["z"]}


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blank_lines_are_skipped(name, end, tmp_path):
    mark = "," if name == "a.csv" else "\t"
    lines = [f"text{mark}label", "", f"a{mark}x", f"b{mark}", "  ", f"{mark}y", "", ""]
    expected = {"text": ["a", "b", ""], "label": ["x", "", "y"]}
    assert read_table(write(tmp_path / name, end.join(lines))) == expected


def test_blank_lines_of_a_one_column_table_are_skipped(tmp_path):
    for name in ("a.csv", "a.tsv"):
        assert read_table(write(tmp_path / name, "text\na\n\nb\n\n")) == {"text": ["a", "b"]}


def test_a_cell_may_be_long(tmp_path):
    """The csv module's limit of 131,072 characters stays in place for others."""
    limit = csv.field_size_limit()
    long = "word " * 40_000
    file = write(tmp_path / "a.csv", f'text,label\n"{long}",x\n{long},y\n')
    assert read_table(file) == {"text": [long, long], "label": ["x", "y"]}
    assert csv.field_size_limit() == limit


def test_unnamed_columns_are_skipped_and_repeated_names_raise(tmp_path):
    assert read_table(write(tmp_path / "a.csv", ",a,\n1,x,\n2,y,\n")) == {"a": ["x", "y"]}
    file = write(tmp_path / "twice.csv", "a,b,a\n1,2,3\n")
    with pytest.raises(ValueError, match="each column once, got .*twice.csv with 2 columns 'a'"):
        read_table(file)


def test_an_unclosed_quote_raises(tmp_path):
    with pytest.raises(
        ValueError, match="got .*a.csv whose line 3 is not .*unexpected end of data"
    ):
        read_table(write(tmp_path / "a.csv", 'a,b\n1,2\n"open,3\n'))


def test_a_table_may_have_no_rows(tmp_path):
    assert read_table(write(tmp_path / "a.tsv", "a\tb\n")) == {"a": [], "b": []}
