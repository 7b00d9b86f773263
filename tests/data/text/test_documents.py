import gzip

import pytest

from keras_attn.data import (
    BertTokenizer,
    read_documents,
    split_documents,
    stream_documents,
    tokenize_documents,
)
from keras_attn.data.text.vocabulary import SPECIAL_TOKENS


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_blank_lines_and_files_separate_documents(tmp_path):
    first = write(tmp_path / "a.txt", "\ufeff\none\n  two \r\n\n \t\n三\n")
    second = write(tmp_path / "b.txt.gz", gzip.compress(b"four"))
    assert read_documents(str(first)) == [["one", "two"], ["三"]]
    assert read_documents([first, second]) == [["one", "two"], ["三"], ["four"]]


def test_invalid_text_files_raise(tmp_path):
    with pytest.raises(ValueError, match="`longest` must be a positive integer, got 0"):
        next(stream_documents(tmp_path / "a.txt", longest=0))
    good = write(tmp_path / "good.txt", "text")
    for content in ("", "\n \n"):
        empty = write(tmp_path / "empty.txt", content)
        with pytest.raises(ValueError, match=r"`paths` must be files with text, got .*empty.txt"):
            read_documents([good, empty])
    latin = write(tmp_path / "latin.txt", "one\ntwo\nGröße".encode("latin-1"))
    with pytest.raises(ValueError, match=r"text must be UTF-8, got .*latin.txt whose line 3"):
        read_documents([good, latin])


def test_the_split_is_seeded_complete_and_ordered():
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


def test_tokenized_documents_drop_empty_paragraphs():
    tokenizer = BertTokenizer([*SPECIAL_TOKENS, "a", "##b", "c"])
    ids = tokenize_documents([["ab", "c"], ["\u200b"], ["c", "\x00", "a c"]], tokenizer)
    assert ids.to_list() == [[[5, 6], [7]], [], [[7], [5, 7]]]
