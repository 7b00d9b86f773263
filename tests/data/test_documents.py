import gzip
import pathlib

import pytest

from keras_attn.data import (
    BertTokenizer,
    read_documents,
    read_table,
    split_documents,
    table_documents,
    tokenize_documents,
)
from keras_attn.data.vocabulary import SPECIAL_TOKENS

CORPUS = pathlib.Path(__file__).parents[2] / "examples/data/libreoffice_help.tsv.gz"


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_blank_lines_and_files_divide_documents(tmp_path):
    first = write(tmp_path / "a.txt", "\ufeff\none\n  two \r\n\n \t\n三\n")
    second = write(tmp_path / "b.txt.gz", gzip.compress(b"four"))
    assert read_documents(str(first)) == [["one", "two"], ["三"]]
    assert read_documents([first, second]) == [["one", "two"], ["三"], ["four"]]


def test_bad_text_files_are_named(tmp_path):
    good = write(tmp_path / "good.txt", "text")
    for content in ("", "\n \n"):
        empty = write(tmp_path / "empty.txt", content)
        with pytest.raises(ValueError, match=r"`paths` must be files with text, got .*empty.txt"):
            read_documents([good, empty])
    latin = write(tmp_path / "latin.txt", "one\ntwo\nGröße".encode("latin-1"))
    with pytest.raises(ValueError, match=r"text must be UTF-8, got .*latin.txt whose line 3"):
        read_documents([good, latin])


def test_corpus_is_what_its_notice_says():
    table = read_table(CORPUS)
    assert list(table) == ["document", "en", "de", "zh"]
    assert len(table["en"]) == 46815
    assert len(table_documents(table, "en")) == 2479
    assert sum(map(len, table_documents(table, "en", "de").values())) == 43430
    assert sum(map(len, table_documents(table, "en", "zh").values())) == 30316


def test_a_table_with_commas(tmp_path):
    content = 'text,label\r\n"a, ""b""",x\r\n"two\nlines",y\r\n'
    expected = {"text": ['a, "b"', "two\nlines"], "label": ["x", "y"]}
    assert read_table(write(tmp_path / "a.csv", content)) == expected
    packed = write(tmp_path / "a.csv.gz", gzip.compress(content.encode()))
    assert read_table(packed) == expected
    with pytest.raises(ValueError, match=r"a.csv whose line 3 has 1"):
        read_table(write(tmp_path / "a.csv", "text,label\nb,x\nc\n"))
    with pytest.raises(ValueError, match=r"must be a table, got .*a.csv whose line 2 is not"):
        read_table(write(tmp_path / "a.csv", 'text,label\n"b" c,x\n'))


def test_bad_tables_are_named(tmp_path):
    uneven = write(tmp_path / "uneven.tsv", "document\ten\np\ta\np\tb\tc\n")
    with pytest.raises(
        ValueError, match=r"must have 2 columns in every line, got .*uneven.tsv whose line 3 has 3"
    ):
        read_table(uneven)
    with pytest.raises(ValueError, match=r"must be a table with a header line, got .*none.tsv"):
        read_table(write(tmp_path / "none.tsv", ""))
    with pytest.raises(ValueError, match="`columns` must be among document, en, got 'fr'"):
        table_documents({"document": [], "en": []}, "fr")


def test_split_is_seeded_complete_and_in_order():
    documents = list(range(101))
    training, held_out = split_documents(documents, 0.07, seed=3)
    assert len(held_out) == 7
    assert sorted(training + held_out) == documents
    assert training == sorted(training)
    assert split_documents(documents, 0.07, seed=3) == (training, held_out)
    assert split_documents(documents, 0.07, seed=4) != (training, held_out)
    assert [len(part) for part in split_documents([1, 2], 0.01)] == [1, 1]
    with pytest.raises(ValueError, match="`held_out` must be between 0 and 1, got 1"):
        split_documents(documents, 1)
    with pytest.raises(ValueError, match="`documents` must hold two documents or more, got 1"):
        split_documents([1])


def test_tokenized_documents_keep_their_shape_without_empty_paragraphs():
    tokenizer = BertTokenizer([*SPECIAL_TOKENS, "a", "##b", "c"])
    ids = tokenize_documents([["ab", "c"], ["\u200b"], ["c", "\x00", "a c"]], tokenizer)
    assert ids.to_list() == [[[5, 6], [7]], [], [[7], [5, 7]]]
