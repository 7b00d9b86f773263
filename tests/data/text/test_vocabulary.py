import subprocess
import sys

import pytest

from keras_attn.data import BertTokenizer, read_vocabulary, train_vocabulary

TEXTS = ["Low lower lowest.", "new newer newest, wide wider widest", "Größe 数据 数据库"] * 7


def test_the_vocabulary_does_not_depend_on_process_or_text_order():
    here = train_vocabulary(TEXTS, 60, progress=False)
    assert train_vocabulary(iter(TEXTS[::-1]), 60, progress=False) == here
    program = (
        "from keras_attn.data import train_vocabulary\n"
        f"print(*train_vocabulary({TEXTS!r}, 60, progress=False), sep='|')"
    )
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, encoding="utf-8"
    )
    assert there.stdout.strip().split("|") == here


def test_special_tokens_come_first():
    vocabulary = train_vocabulary(TEXTS, 60, progress=False)
    assert vocabulary[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(vocabulary)) == len(vocabulary) <= 60
    assert {"low", "new", "wide", "g", "数", "."} <= set(vocabulary)
    assert "Low" not in vocabulary
    assert "##数" not in vocabulary  # a Chinese character is a word and never continues one


def test_case_and_accents_are_kept_without_lowercase():
    vocabulary = train_vocabulary(TEXTS, 80, lowercase=False, progress=False)
    assert {"L", "##ö", "##ß"} <= set(vocabulary)


def test_the_trainer_splits_words_as_the_tokenizer_does():
    """With Python's final sigma, and without words from special tokens."""
    texts = ["ΟΔΟΣ ΣΟΦΟΣ, [MASK] ΟΔΟΣ[SEP]"] * 9
    vocabulary = train_vocabulary(texts, 60, progress=False)
    assert "ΟΔΟΣ".lower() in vocabulary
    assert "οδοσ" not in vocabulary
    assert not {"[", "]", "mask", "m"} & set(vocabulary)
    assert BertTokenizer(vocabulary)(["Οδός"]).to_list() == [[vocabulary.index("οδος")]]


@pytest.mark.parametrize(
    ("texts", "size", "error", "message"),
    [
        ([], 60, ValueError, "`texts` must hold at least one word, got none"),
        ([" \n"], 60, ValueError, "`texts` must hold at least one word, got none"),
        ("one text", 60, TypeError, "`texts` must be an iterable of strings, got one string"),
        (["a"], 5, ValueError, "`size` must be greater than the 5 special tokens, got 5"),
    ],
)
def test_invalid_training_input_raises(texts, size, error, message):
    with pytest.raises(error, match=message):
        train_vocabulary(texts, size)


def test_a_missing_package_raises(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        ImportError, match=r"package tokenizers: pip install keras_attn\[examples\]"
    ):
        train_vocabulary(TEXTS, 60)


def test_reading_a_vocabulary_keeps_every_line(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("[PAD]\r\n##é\n\u2028\n".encode())
    assert read_vocabulary(path) == ["[PAD]", "##é", "\u2028"]


def test_a_token_with_a_line_break_raises():
    tokens = ["[PAD]", "[UNK]\r[CLS]"]
    with pytest.raises(ValueError, match=r"`vocabulary` must hold strings .* no line end"):
        BertTokenizer(tokens)


def test_a_vocabulary_file_that_is_not_utf8_raises_with_its_line(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("[PAD]\nGröße\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"text must be UTF-8, got .*latin.txt .*2"):
        read_vocabulary(path)


def test_a_byte_order_mark_and_trailing_blank_lines_are_not_tokens(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\ufeff[PAD]\r\n\ufeffx\r\n\r\n \n".encode())
    assert read_vocabulary(path) == ["[PAD]", "\ufeffx"]
    path.write_bytes(b"[PAD]\n\na\n")
    with pytest.raises(ValueError, match="got .*vocab.txt whose line 2 is blank"):
        read_vocabulary(path)
