import bz2
import gzip
import lzma

import pytest

from keras_attn.data import read_documents, read_vocabulary
from keras_attn.data.text.files import read_lines, read_text

TEXT = "Größe\u2028x\x85\n\n数据\r\nlast"
LINES = [(1, "Größe\u2028x\x85"), (2, ""), (3, "数据"), (4, "last")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("name", "compress"),
    [("a.txt", bytes), ("a.GZ", gzip.compress), ("a.bz2", bz2.compress), ("a.xz", lzma.compress)],
)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_lines(name, compress, encoding, end, tmp_path):
    (tmp_path / name).write_bytes(compress((TEXT + end).encode(encoding)))
    assert list(read_lines(tmp_path / name)) == LINES
    assert read_text(tmp_path / name) == "\n".join(line for _, line in LINES)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(TEXT.encode() * 99)[:-9])
    with pytest.raises(ValueError, match="must be whole, got .*a.txt.gz, damaged after line "):
        read_documents(path)
    path.write_bytes(b"plain text")
    with pytest.raises(ValueError, match="a.txt.gz, damaged after line 0 .*Not a gzipped file"):
        read_vocabulary(path)


@pytest.mark.parametrize("encoding", ["gb18030", "latin-1", "utf-16-le"])
def test_another_encoding_is_named_with_its_line(encoding, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\n" + "Größe é".encode(encoding))
    with pytest.raises(ValueError, match="must be UTF-8, got .*a.txt whose line 3 is not"):
        list(read_lines(path))


def test_half_a_character_of_utf_16(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("word".encode("utf-16")[:-1])
    with pytest.raises(ValueError, match="UTF-16 with a byte-order mark, got .*a.txt that is neit"):
        list(read_lines(path))
