import io
import json
import random

import pytest
import sentencepiece
import tensorflow as tf

from keras_attn import data
from keras_attn.data import SentencePieceTokenizer, read_tokenizer
from tests.data.text.graphs import check_graphs, check_saved_model
from tests.data.text.test_byte_pair_tokenizer import UNUSUAL, lines, on_tensorflow

OPTIONS = {
    "unigram": {"byte_fallback": True, "user_defined_symbols": ["[new]", "<mask>"]},
    "bpe": {"model_type": "bpe", "byte_fallback": True},
    "spaces": {
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
    },
    "across": {"normalization_rule_name": "nmt_nfkc_cf", "split_by_whitespace": False},
}


def trained(texts, size, **options):
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=file,
        vocab_size=size,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return file.getvalue()


def assert_same(model, texts):
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    own = SentencePieceTokenizer(model)
    expected = theirs.encode(texts)
    ids = own(tf.constant(texts))
    differing = 0
    for text, mine, wanted in zip(texts, ids.to_list(), expected, strict=True):
        if mine != wanted:
            # Two splits of a text that are equally likely: as many times the same tokens.
            assert sorted(mine) == sorted(wanted), repr(text)
            differing += 1
    backs = [text.decode() for text in own.detokenize(ids).numpy()]
    assert backs == theirs.decode(ids.to_list())
    return differing


@pytest.fixture(scope="module")
def small():
    return trained(lines(211), 2200, **OPTIONS["unigram"])


@pytest.mark.parametrize("name", OPTIONS)
def test_ids_and_texts_equal_the_package(name):
    texts = [*lines(97), *UNUSUAL]
    differing = assert_same(trained(lines(211), 2200, **OPTIONS[name]), texts)
    assert differing <= (0 if name == "bpe" else 0.01 * len(texts))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_ids_and_texts_equal_the_package_on_the_corpus(name):
    texts = lines(1)
    model = trained(texts, 8192, **OPTIONS[name], num_threads=2)
    differing = assert_same(model, texts)
    assert differing <= (0 if name == "bpe" else 0.001 * len(texts))


@pytest.mark.parametrize("letters", ["a", "abcdefg  ", "😀a\u0301"])
def test_long_strings_equal_the_package(small, letters):
    model = trained(lines(211), 2200, **OPTIONS["bpe"])
    text = "".join(random.Random(1).choices(letters, k=100_000))
    assert assert_same(model, [text]) == 0


def test_leading_spaces_are_in_the_ids_and_not_in_the_text():
    model = trained(lines(211), 600, model_type="bpe", remove_extra_whitespaces=False)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    own, texts = SentencePieceTokenizer(model), ["  a b", " a  b ", "a"]
    ids = own(texts).to_list()
    assert ids == theirs.encode(texts)
    assert theirs.decode(ids) == texts
    backs = [text.decode() for text in own.detokenize(own(texts)).numpy()]
    assert backs == [text.lstrip() for text in texts]  # the limit that the docstring states


def test_invalid_bytes_become_the_replacement_character(small):
    own = SentencePieceTokenizer(small)
    assert own(tf.constant([b"a\xff"])).to_list() == own(["a\ufffd"]).to_list()


@on_tensorflow
def test_graphs_give_the_same_ids(small, tmp_path):
    own = SentencePieceTokenizer(small)
    expected = SentencePieceTokenizer(small)(UNUSUAL).to_list()
    check_graphs(own, UNUSUAL, expected, tmp_path)


def test_saved_model_has_operations_of_old_servers(small, tmp_path):
    own = SentencePieceTokenizer(small)
    check_saved_model(own, ["a\x00 b", "ß"], ["a\x00 b", "ß"], tmp_path)


def test_a_directory_gives_the_tokenizer_of_its_model(small, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(small)
    assert read_tokenizer(tmp_path / "tokenizer.model").adds_cls is False
    settings = {"tokenizer_class": "LlamaTokenizer", "pad_token": {"content": "<unk>"}}
    listed = {"0": {"content": "<unk>"}, "3": {"content": "[new]"}}
    settings |= {"added_tokens_decoder": listed, "eos_token": "</s>", "cls_token": None}
    settings |= {"additional_special_tokens": ["<mask>"], "add_prefix_space": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    own = read_tokenizer(tmp_path)
    assert (own.cls_id, own.sep_id, own.pad_id, own.unk_id, own.adds_cls) == (1, 2, 0, 0, True)
    again = SentencePieceTokenizer.from_config(own.get_config())
    assert again.get_config() == own.get_config()
    assert again.tokens([3, 4]).numpy().tolist() == [b"[new]", b"<mask>"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer_class": "XLMRobertaTokenizer"}, "must be LlamaTokenizer, .* got XLMRob"),
        ({"added_tokens_decoder": {"1": {"content": "<pad>"}}}, "got '<pad>' with 1: let transf"),
        ({"added_tokens_decoder": {"x": {"content": "<x>"}}}, "must be an id, got 'x'"),
        ({"added_tokens_decoder": {"9999": {"content": "<x>"}}}, "got '<x>' with 9999: let"),
        (
            {"additional_special_tokens": ["<0x0A>"]},
            "user-defined symbols of the model, got .<0x0A>",
        ),
        ({"additional_special_tokens": ["<x>"]}, "must be in the vocabulary, got '<x>'"),
        ({"add_prefix_space": False}, "add_prefix_space must be true or null, got false"),
    ],
)
def test_a_directory_with_other_ids_than_its_model_raises(small, settings, message, tmp_path):
    (tmp_path / "spiece.model").write_bytes(small)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=message):
        read_tokenizer(tmp_path)


def test_invalid_models_and_tokens_raise(small, tmp_path):
    (tmp_path / "a.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match="a.model: `model` must be the content of a SentencePiece"):
        read_tokenizer(tmp_path)
    (tmp_path / "b.model").write_bytes(small)
    with pytest.raises(ValueError, match="must hold one SentencePiece model, got a.model, b.model"):
        read_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="`special_tokens` must be in the vocabulary, got '<pad>'"):
        data.SentencePieceTokenizer(small, special_tokens={"pad": "<pad>"})
