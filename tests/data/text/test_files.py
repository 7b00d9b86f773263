import bz2
import gzip
import lzma

import pytest

from keras_attn.data import read_documents, read_table, read_tags, read_vocabulary
from keras_attn.data.text.files import read_lines, read_text

TEXT = "Größe\u2028x\x85\n\n数据\r\nlast"
LINES = [(1, "Größe\u2028x\x85"), (2, ""), (3, "数据"), (4, "last")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("name", "compress"),
    [("a.txt", bytes), ("a.GZ", gzip.compress), ("a.bz2", bz2.compress), ("a.xz", lzma.compress)],
)
@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r"])
def test_lines_are_read_in_every_encoding_and_compression(name, compress, encoding, end, tmp_path):
    text = TEXT if end in ("", "\r\n") else TEXT.replace("\r\n", "\n").replace("\n", end)
    (tmp_path / name).write_bytes(compress((text + end).encode(encoding)))
    assert list(read_lines(tmp_path / name)) == LINES
    assert read_text(tmp_path / name) == "\n".join(line for _, line in LINES)


def test_damaged_files_raise(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(TEXT.encode() * 99)[:-9])
    with pytest.raises(ValueError, match="must be complete, got .*a.txt.gz, damaged after line "):
        read_documents(path)
    for ending, text in ((".gz", "Not a gzipped"), (".bz2", "Invalid data"), (".xz", "not supp")):
        path = write(tmp_path / f"a.txt{ending}", b"plain text")
        with pytest.raises(ValueError, match=f"txt{ending}, damaged from the beginning .*{text}"):
            read_vocabulary(path)
    whole = bytearray(bz2.compress(TEXT.encode() * 99))
    whole[-2] ^= 255  # in the checksum
    with pytest.raises(ValueError, match="a.txt.bz2, damaged "):
        read_documents(write(tmp_path / "a.txt.bz2", bytes(whole)))
    with pytest.raises(FileNotFoundError):
        read_documents(tmp_path / "none.txt.bz2")


@pytest.mark.parametrize("encoding", ["gb18030", "latin-1", "utf-16-le"])
def test_another_encoding_raises_with_its_line(encoding, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\n" + "Größe é".encode(encoding))
    with pytest.raises(ValueError, match="must be UTF-8, got .*a.txt whose line 3 is not"):
        list(read_lines(path))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_utf_16_without_a_mark_and_utf_32_raise(encoding, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one\ntwo\n".encode(encoding))
    with pytest.raises(ValueError, match="a.txt whose line 1 (has a null character|is not)"):
        list(read_lines(path))


def test_lines_may_end_with_a_carriage_return(tmp_path):
    documents = write(tmp_path / "a.txt", "one\rtwo\r\rthree")
    assert read_documents(documents) == [["one", "two"], ["three"]]
    tags = write(tmp_path / "tags.txt", "Ann B-X\rsang O\r\rwho O\r")
    assert list(read_tags(tags)) == [(["Ann", "sang"], ["B-X", "O"]), (["who"], ["O"])]
    for mark, name in ((",", "a.csv"), ("\t", "a.tsv")):
        table = write(tmp_path / name, f"text{mark}label\ra{mark}x\rb{mark}y")
        assert read_table(table) == {"text": ["a", "b"], "label": ["x", "y"]}
    vocabulary = write(tmp_path / "vocab.txt", "[PAD]\r##é\r\r")
    assert read_vocabulary(vocabulary) == ["[PAD]", "##é"]


def test_an_incomplete_utf_16_character_raises(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("word".encode("utf-16")[:-1])
    with pytest.raises(ValueError, match="UTF-16 with a byte-order mark, got .*a.txt that is neit"):
        list(read_lines(path))


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_tab_separated_columns_are_read(tmp_path):
    text = "# text = x\n1\tAnn\tB-X\n2\t#\tO\n\n\n1\tthe\tO\r\n"
    sentences = list(read_tags(write(tmp_path / "a.iob2", text), word_column=1))
    assert sentences == [(["Ann", "#"], ["B-X", "O"]), (["the"], ["O"])]


def test_comments_are_recognized_only_before_a_sentence(tmp_path):
    text = "-DOCSTART- -X- O\n\n# id 3\nroom NN B-X\n# NN I-X\n-DOCSTART- NN O\n4 CD I-X\n"
    (found,) = read_tags(write(tmp_path / "a.txt", text))
    assert found == (["room", "#", "-DOCSTART-", "4"], ["B-X", "I-X", "O", "I-X"])


def test_a_byte_order_mark_and_compression_are_accepted_in_tag_files(tmp_path):
    text = "Ann B-X\r\nsang O\r\n\r\nwho O"
    expected = [(["Ann", "sang"], ["B-X", "O"]), (["who"], ["O"])]
    marked = write(tmp_path / "a.txt", text.encode("utf-8-sig"))
    assert list(read_tags(marked)) == expected
    packed = write(tmp_path / "a.txt.GZ", gzip.compress(text.encode("utf-8-sig")))
    assert list(read_tags(packed)) == expected
    assert list(read_tags(write(tmp_path / "b.txt", text.encode("utf-16")))) == expected


def test_only_spaces_and_tabs_separate_columns(tmp_path):
    """A number with U+00A0, a word with U+2028, and a word with a space between tabs."""
    spaces = write(tmp_path / "a.txt", "10\u00a0000  B-X\n\u2028. \t O \n")
    assert list(read_tags(spaces)) == [(["10\u00a0000", "\u2028."], ["B-X", "O"])]
    tabs = write(tmp_path / "b.txt", "New York\tB-X\nis O\n".replace("is O", "is \t O"))
    assert list(read_tags(tabs)) == [(["New York", "is"], ["B-X", "O"])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a O\nb\n", r"tags.txt, line 2: every line must have 2 columns, got 1: 'b'"),
        ("a\n", r"tags.txt, line 1: every line must have 2 columns, got 1: 'a'"),
        ("a\tO\n\nb\t\n", r"tags.txt, line 3: a line must have a word and a tag, got 'b"),
    ],
)
def test_invalid_lines_raise(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        list(read_tags(write(tmp_path / "tags.txt", text)))


def test_a_missing_column_or_empty_separator_raises(tmp_path):
    file = write(tmp_path / "tags.txt", "a O\n")
    with pytest.raises(ValueError, match="`separator` must be a string that is not empty"):
        list(read_tags(file, separator=""))
    with pytest.raises(
        ValueError, match="line 1: .* must be numbers of its 2 columns, got 2 and -1"
    ):
        list(read_tags(file, word_column=2))
