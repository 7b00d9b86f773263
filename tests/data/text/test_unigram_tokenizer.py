import json
import random

import pytest
import tensorflow as tf
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from keras_attn import weights
from keras_attn.data import UnigramTokenizer, read_tokenizer
from keras_attn.models import bert
from tests.data.text.graphs import check_graphs, check_saved_model
from tests.data.text.test_byte_pair_tokenizer import UNUSUAL, lines, on_tensorflow
from tests.data.text.test_unicode_maps import charsmap

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
OF_BYTES = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1)]
)


def trained(texts, size):
    """A tokenizer of the package tokenizers, with added tokens of every kind."""
    made = tokenizers.Tokenizer(models.Unigram())
    spaces = normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
    made.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap()), spaces])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    made.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True)])
    made.add_tokens([tokenizers.AddedToken("[new]", rstrip=True, normalized=True)])
    made.add_tokens([tokenizers.AddedToken("ＦＵＬＬ", normalized=True)])
    return made


@pytest.fixture(scope="module")
def small():
    return trained(lines(211), 1500)


def ours(theirs, tmp_path):
    theirs.save(str(tmp_path / "tokenizer.json"))
    return read_tokenizer(tmp_path)


def assert_same(theirs, own, texts):
    expected = [encoding.ids for encoding in theirs.encode_batch(texts, add_special_tokens=False)]
    got = own(tf.constant(texts))
    for text, mine, wanted in zip(texts, got.to_list(), expected, strict=True):
        assert mine == wanted, repr(text)
    backs = [text.decode() for text in own.detokenize(got).numpy()]
    assert backs == theirs.decode_batch(expected, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("size", "step"), [(1500, 211), pytest.param(8192, 1, marks=pytest.mark.slow)]
)
def test_ids_and_texts_equal_the_package_on_the_corpus(size, step, tmp_path):
    texts = lines(step)
    theirs = trained(texts, size)
    own = ours(theirs, tmp_path)
    for begin in range(0, len(texts), 8192):
        assert_same(theirs, own, texts[begin : begin + 8192])


ALBERT = normalizers.Sequence(
    [
        normalizers.Replace("``", '"'),
        normalizers.NFKD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        normalizers.Precompiled(charsmap()),
    ]
)
DEBERTA = normalizers.Sequence(
    [
        normalizers.Replace(tokenizers.Regex(r"\s{2,}|[\n\r\t]"), " "),
        normalizers.NFC(),
        normalizers.Strip(left=False, right=True),
    ]
)


def metaspace(scheme, split=True):
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)


WHITE = pre_tokenizers.WhitespaceSplit()


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer"),
    [
        (normalizers.Precompiled(charsmap()), metaspace("always")),
        (
            normalizers.Precompiled(charsmap()),
            pre_tokenizers.Sequence([WHITE, metaspace("always")]),
        ),
        (ALBERT, pre_tokenizers.Sequence([WHITE, metaspace("never")])),
        (DEBERTA, pre_tokenizers.Sequence([metaspace("first")])),
        (None, metaspace("always", split=False)),
    ],
    ids=["plain", "xlm-roberta", "albert", "deberta", "whole"],
)
def test_ids_equal_the_package_on_unusual_text(small, normalizer, pre_tokenizer, tmp_path):
    theirs = tokenizers.Tokenizer.from_str(small.to_str())
    if normalizer is None:
        content = json.loads(small.to_str()) | {"normalizer": None}
        theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    else:
        theirs.normalizer = normalizer
    theirs.pre_tokenizer = pre_tokenizer
    space = json.loads(theirs.to_str())["pre_tokenizer"]
    space = space.get("pretokenizers", [space])[-1]
    theirs.decoder = decoders.Metaspace(prepend_scheme=space["prepend_scheme"])
    assert_same(theirs, ours(theirs, tmp_path), UNUSUAL)


def test_unknown_characters_become_their_bytes(small, tmp_path):
    content = json.loads(small.to_str())
    vocabulary = content["model"]["vocab"] + [[token, 0.0] for token in BYTES]
    content["model"] |= {"vocab": vocabulary, "byte_fallback": True}
    content["added_tokens"] = content["added_tokens"][:4]
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    theirs.decoder = OF_BYTES
    own = ours(theirs, tmp_path)
    assert_same(theirs, own, [*UNUSUAL, "😀😀 x😀", "\x00"])
    del vocabulary[-1]
    with pytest.raises(ValueError, match="a token for each byte, got none for <0xFF>"):
        UnigramTokenizer(content)


@pytest.mark.parametrize("size", [500, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("letters", ["a", "-", "abcdefg  ", "😀a\u0301"])
def test_long_strings_equal_the_package(small, letters, size, tmp_path):
    assert_same(small, ours(small, tmp_path), ["".join(random.Random(1).choices(letters, k=size))])


def test_equally_likely_splits_are_resolved_as_the_package_does(tmp_path):
    draw = random.Random(2)
    tokens = ["<unk>", "▁", "a", "b", "aa", "ab", "ba", "aaa", "bb", "aab", "▁a", "a▁b"]
    vocabulary = [(token, float(draw.choice([-1, -2, -3]))) for token in tokens]
    theirs = tokenizers.Tokenizer(models.Unigram(vocabulary, 0))
    theirs.pre_tokenizer = metaspace("always", split=False)
    theirs.decoder = decoders.Metaspace()
    texts = ["".join(draw.choices("aaabbc ", k=draw.randint(1, 20))) for _ in range(500)]
    assert_same(theirs, ours(theirs, tmp_path), texts)


def test_invalid_bytes_become_the_replacement_character(small, tmp_path):
    own = ours(small, tmp_path)
    assert own(tf.constant([b"a\xff"])).to_list() == [small.encode("a\ufffd").ids]


@on_tensorflow
@pytest.mark.slow  # the export below is a graph too
def test_graphs_give_the_same_ids(small, tmp_path):
    expected = ours(small, tmp_path)(UNUSUAL).to_list()
    own = read_tokenizer(tmp_path)
    check_graphs(own, UNUSUAL, expected, tmp_path)


def test_saved_model_has_operations_of_old_servers(small, tmp_path):
    own = ours(small, tmp_path)
    check_saved_model(own, ["a b", "① e\u0301"], ["a b", "1 é"], tmp_path)


def test_a_directory_of_a_checkpoint_gives_its_tokenizer(small, tmp_path):
    weights.save(bert.encoder("bert_tiny", vocabulary_size=1503), tmp_path)
    theirs = tokenizers.Tokenizer.from_str(small.to_str())
    theirs.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    theirs.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"sep_token": "<mask>"}')
    own = weights.load(tmp_path).tokenizer
    assert own(["a ß"]).to_list() == [small.encode("a ß").ids]
    assert (own.cls_id, own.pad_id, own.unk_id, own.adds_cls) == (0, 1, 3, True)
    assert own.sep_id == own.mask_id == small.token_to_id("<mask>")
    again = UnigramTokenizer.from_config(own.get_config())
    assert again.get_config() == own.get_config()
    assert again.vocabulary == own.vocabulary


PART = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
FILE = {
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]},
    "pre_tokenizer": PART,
    "decoder": PART,
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": {"type": "BPE"}}, "the model must be Unigram and have vocab, got type"),
        ({"model": {**FILE["model"], "unk_id": None}}, "the id of one of 2 tokens, got None"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "must be Metaspace, .* got ByteLevel"),
        (
            {"pre_tokenizer": {**PART, "replacement": "_"}},
            "the replacement '▁' .*, got '_' and 'always",
        ),
        (
            {"pre_tokenizer": {**PART, "prepend_scheme": "last"}},
            "always, first, never, got '▁' and",
        ),
        ({"normalizer": {"type": "Prepend"}}, "must be one of NFC, .*, Strip, got Prepend"),
        (
            {"normalizer": {"type": "Replace", "pattern": {"Regex": "x+"}, "content": ""}},
            "may replace strings and ' {2,}', .*, got 'x+'",
        ),
        ({"decoder": None}, "must be Metaspace or a Sequence of Replace, .*, got none"),
        ({"added_tokens": [{"id": 1, "content": "z"}]}, "different ids .* got 'z' with the id of"),
        ({"added_tokens": [{"id": 3, "content": "z"}]}, "3 tokens must have the ids 0 to 2, got 3"),
        (
            {"added_tokens": [{"id": 1, "content": "a", "single_word": True}]},
            "got 'a' with single_word",
        ),
    ],
)
def test_unsupported_settings_of_a_file_raise(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message.replace("{2,}", r"\{2,\}").replace("x+", r"x\+")):
        UnigramTokenizer({**FILE, **wrong})
