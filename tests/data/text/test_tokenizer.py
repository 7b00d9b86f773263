import gzip
import os
import pathlib
import shutil
import unicodedata

import keras
import numpy as np
import pytest
import tensorflow as tf
from tokenizers import BertWordPieceTokenizer

from keras_attn.data import BertTokenizer, pack, read_table, train_vocabulary
from keras_attn.data.text.vocabulary import SPECIAL_TOKENS

CORPUS = pathlib.Path(__file__).parents[3] / "examples/data/libreoffice_help.tsv.gz"
VOCABULARY = [*SPECIAL_TOKENS, "play", "##ing", "!", "the", "cat", "é", "Play", "e"]
on_tensorflow = pytest.mark.backends(
    "tensorflow", reason="functional string models need TensorFlow"
)

UNUSUAL_WORDS = [
    "", "   ", "a[MASK]b", "[mask]", "[MASK][MASK]", "[CLS] x [SEP] [PAD] [UNK]", "don't!",
    "x" * 100, "x" * 101, "é" * 100, "é" * 101, "ß ẞ", "①ﬁﬀ", "，：。！", "İstanbul ı", "Å Å ǅ",
    "e\u0301 \u0301", "a\u00a0b\u3000c\u2028d\u2029e", "zero\u200bwidth\u200djoin\ufeff",
    "tab\tnew\nline\rx",
    "\x00\x01a\x7fb\x85c\x0b\x0c", "\ue000\ue004 private", "\ufffd", "👩‍👩‍👧 😀", "한국어",
    "ไทยภาษา", "मराठी", "中文abc中文", "㐀𠀀豈", "«q» „z“ …–—", "$+<=>^`|~", "##ing ## #", "ab##c",
    "مرحبا، عالم", "١٢٣", "word\u00adsoft",
]  # fmt: skip


def oracle(vocabulary, lowercase):
    ids = {token: index for index, token in enumerate(vocabulary)}
    return BertWordPieceTokenizer(ids, lowercase=lowercase, strip_accents=lowercase)


def assert_same_ids(texts, vocabulary, lowercase):
    encodings = oracle(vocabulary, lowercase).encode_batch(texts, add_special_tokens=False)
    ids = BertTokenizer(vocabulary, lowercase)(texts).to_list()
    for text, ours, theirs in zip(texts, ids, encodings, strict=True):
        assert ours == theirs.ids, text


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("language", ["en", "de", "zh"])
@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.slow)])
def test_ids_equal_tokenizers_on_the_corpus(step, language, lowercase):
    texts = [text for text in read_table(CORPUS)[language] if text][::step]
    assert_same_ids(texts, train_vocabulary(texts, 3000, lowercase, progress=False), lowercase)


@pytest.mark.parametrize("lowercase", [True, False])
def test_ids_equal_tokenizers_on_unusual_strings(lowercase):
    vocabulary = train_vocabulary(UNUSUAL_WORDS * 2, 900, lowercase, progress=False)
    assert_same_ids(UNUSUAL_WORDS, vocabulary, lowercase)


def test_the_final_sigma_equals_the_original_bert():
    """The original BERT calls Python's lower(), which has the final sigma; tokenizers does not."""
    vocabulary = [*SPECIAL_TOKENS, "οδος", "οδοσ"]
    assert "ΟΔΟΣ".lower() == "οδος"
    assert BertTokenizer(vocabulary)(["ΟΔΟΣ"]).to_list() == [[5]]
    assert oracle(vocabulary, True).encode("ΟΔΟΣ", add_special_tokens=False).ids == [6]


@pytest.mark.parametrize("lowercase", [True, False])
def test_offsets_are_the_bytes_of_each_token(lowercase):
    """The ids equal those of a call, and the bytes of a token alone give the same token."""
    tokenizer = BertTokenizer(
        train_vocabulary(UNUSUAL_WORDS * 2, 900, lowercase, progress=False), lowercase
    )
    ids, begins, ends = tokenizer.tokenize_with_offsets(UNUSUAL_WORDS)
    assert ids.to_list() == tokenizer(UNUSUAL_WORDS).to_list()
    for text, row, row_begins, row_ends in zip(
        UNUSUAL_WORDS, ids.to_list(), begins.to_list(), ends.to_list(), strict=True
    ):
        parts = [text.encode()[b:e].decode() for b, e in zip(row_begins, row_ends, strict=True)]
        assert all(parts)
        assert row_begins == sorted(row_begins)
        again = tokenizer([part.strip() for part in parts]).to_list()
        for token, part, alone in zip(row, parts, again, strict=True):
            name = tokenizer.vocabulary[token]
            if not name.startswith("##") and unicodedata.is_normalized("NFD", part):
                assert alone == [token], (text, name, part)
    ragged = tf.ragged.constant([UNUSUAL_WORDS[3:5], []])
    assert tokenizer.tokenize_with_offsets(ragged)[2].to_list() == [ends.to_list()[3:5], []]


def test_a_leading_accent_is_not_joined_to_another_text():
    texts = ["e", "\u0301the", "the\u0301\u0302"]
    _, begins, ends = BertTokenizer(VOCABULARY).tokenize_with_offsets(texts)
    assert begins.to_list() == [[0], [2], [0]]
    assert ends.to_list() == [[1], [5], [7]]


def test_private_use_characters_may_be_tokens():
    """U+E000 was once used internally for [PAD]."""
    vocabulary = [*SPECIAL_TOKENS, "\ue000", "a", "\ue004", "pad", "mask", "unk"]
    for lowercase in (True, False):
        ids = BertTokenizer(vocabulary, lowercase)(["[PAD] a[MASK]", "\ue000a \ue004", "é[UNK]pad"])
        assert ids.to_list() == [[0, 6, 4], [6], [1, 1, 8]]


def test_values_that_are_not_strings_raise():
    tokenizer = BertTokenizer(VOCABULARY)
    for wrong in (None, float("nan"), 3):
        for texts in (["the", wrong], np.array(["the", wrong], object), (["the", wrong],)):
            with pytest.raises(
                ValueError, match=f"`text` must hold strings, got {wrong} at index 1"
            ):
                tokenizer(texts)
        with pytest.raises(ValueError, match=f"`texts` must hold strings, got {wrong} at index 1"):
            train_vocabulary(["the", wrong], 99)
    with pytest.raises(ValueError, match=r"must have the shape \[B\], got lists of unequal length"):
        tokenizer([["the"], ["a", "cat"]])
    assert tokenizer([]).to_list() == []
    assert tokenizer(np.array(["the", "cat"])).to_list() == [[8], [9]]
    assert BertTokenizer(np.array(VOCABULARY)).vocabulary == list(VOCABULARY)


def test_invalid_utf8_is_dropped():
    ids = BertTokenizer(VOCABULARY)(tf.constant([b"pl\xffay \xe4\xb8", b"\xed\xa0\x80"]))
    assert ids.to_list() == [[5], []]


def test_literal_special_tokens_become_their_ids():
    tokenizer = BertTokenizer(VOCABULARY[::-1])
    ids = tokenizer(["the[MASK]!", "[CLS] [SEP][PAD] [UNK] [mask]"])
    special = [tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.unk_id]
    assert ids[0].numpy().tolist() == [4, tokenizer.mask_id, 5]
    assert ids[1].numpy().tolist() == special + [tokenizer.unk_id] * 3
    assert VOCABULARY[::-1][tokenizer.mask_id] == "[MASK]"


def test_ids_are_converted_to_tokens_and_text():
    tokenizer = BertTokenizer(VOCABULARY)
    ids = tokenizer(["Playing the é[MASK]", "!"])
    assert ids.dtype == tf.int32
    assert tokenizer.tokens(ids).to_list()[0] == [b"play", b"##ing", b"the", b"e", b"[MASK]"]
    assert tokenizer.detokenize(ids).numpy().tolist() == [b"playing the e [MASK]", b"!"]
    with pytest.warns(DeprecationWarning, match="`pieces` is deprecated: use `tokens`"):
        assert tokenizer.pieces(ids).to_list() == tokenizer.tokens(ids).to_list()
    row = pack([ids], length=9, cls_id=2, sep_id=3, pad_id=0)["token_ids"]
    assert tokenizer.detokenize(row).numpy().tolist() == [b"playing the e [MASK]", b"!"]


def test_ragged_strings_keep_their_rows():
    ids = BertTokenizer(VOCABULARY)(tf.ragged.constant([["playing", "the"], [], ["!"]]))
    assert ids.to_list() == [[[5, 6], [8]], [], [[7]]]


def test_the_tokenizer_works_inside_tf_data():
    strings = tf.data.Dataset.from_tensor_slices(["playing", "the cat", "!"]).batch(2)
    tokenizer = BertTokenizer(VOCABULARY)
    for _ in range(
        2
    ):  # tensors of the first graph must not leak into the second or into eager calls
        batches = [batch.to_list() for batch in strings.map(tokenizer)]
        assert batches == [[[5, 6], [8, 9]], [[7]]]
    assert tokenizer(["!"]).to_list() == [[7]]


@on_tensorflow
def test_a_saved_functional_model_does_not_need_the_vocabulary_file(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY), encoding="utf-8")
    text = keras.Input(shape=(), dtype="string")
    model = keras.Model(text, BertTokenizer(str(path), lowercase=False)(text))
    expected = model(tf.constant(["Playing é", "play"])).to_list()
    assert expected == [[11, 6, 10], [5]]
    model.save(tmp_path / "model.keras")
    path.unlink()
    (tmp_path / "moved").mkdir()
    shutil.move(tmp_path / "model.keras", tmp_path / "moved" / "model.keras")
    moved = keras.saving.load_model(tmp_path / "moved" / "model.keras")
    assert moved(tf.constant(["Playing é", "play"])).to_list() == expected


@on_tensorflow
def test_a_saved_model_can_be_moved(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY), encoding="utf-8")
    tokenizer = BertTokenizer(path)

    def rows(text):
        return pack([tokenizer(text)], length=7, cls_id=2, sep_id=3, pad_id=0)

    archive = keras.export.ExportArchive()
    archive.track(tokenizer)
    archive.add_endpoint("serve", rows, [tf.TensorSpec([None], tf.string, name="text")])
    archive.write_out(str(tmp_path / "first"), verbose=False)
    path.unlink()
    os.rename(tmp_path / "first", tmp_path / "second")
    served = tf.saved_model.load(str(tmp_path / "second")).serve(tf.constant(["playing [MASK]"]))
    assert served["token_ids"].numpy().tolist() == [[2, 5, 6, 4, 3, 0, 0]]


def test_the_config_holds_the_constructor_arguments():
    config = BertTokenizer(VOCABULARY, lowercase=False).get_config()
    assert config["vocabulary"] == VOCABULARY
    assert config["lowercase"] is False


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ([], "`vocabulary` must hold tokens, got a list that is empty"),
        (VOCABULARY[:4] + ["a"], "`vocabulary` must hold the special tokens .* without \\[MASK\\]"),
        (VOCABULARY + ["the"], "must hold each token once, .* 1 tokens repeated: 'the'"),
        (VOCABULARY + ["a\nb"], "not empty and have no line end, got a list with 'a\\\\nb'"),
        (5, "`vocabulary` must be a path or a list of tokens, got 5"),
        (None, "`vocabulary` must be a path or a list of tokens, got None"),
        (VOCABULARY + [None], "must hold strings that are .* with None at index 13"),
    ],
)
def test_invalid_vocabularies_raise(vocabulary, message):
    with pytest.raises(ValueError, match=message):
        BertTokenizer(vocabulary)


def test_invalid_vocabulary_files_raise(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"got .*vocab.txt that is empty"):
        BertTokenizer(path)
    path.write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"got .*vocab.txt without \[PAD\], \[UNK\]"):
        BertTokenizer(path)
    path.write_bytes(gzip.compress(b"a"))
    with pytest.raises(ValueError, match=r"text must be UTF-8, got .*vocab.txt whose line 1"):
        BertTokenizer(path)


def test_invalid_calls_raise():
    tokenizer = BertTokenizer(VOCABULARY)
    with pytest.raises(ValueError, match=r"`text` must have the shape \[B\], got \(\)"):
        tokenizer("one string")
    with pytest.raises(ValueError, match="`text` must hold strings, got int32"):
        tokenizer(tf.constant([3]))
    with pytest.raises(
        ValueError, match="`ids` must be ids below the vocabulary's size 13, got 13"
    ):
        tokenizer.tokens([[1, 13]])


def test_a_functional_model_on_another_backend_raises(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="needs the TensorFlow backend, got"):
        BertTokenizer(VOCABULARY)(keras.Input(shape=(), dtype="string"))
