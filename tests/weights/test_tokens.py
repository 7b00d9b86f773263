"""What transformers makes of the tokenizer's files beside a checkpoint that `save` wrote."""

import logging

import pytest
import tensorflow as tf

from keras_attn import data, weights
from keras_attn.models import bert, gpt, modern_bert
from tests.data.text import test_byte_pair_tokenizer, test_unigram_tokenizer
from tests.data.text.test_byte_pair_tokenizer import UNUSUAL, lines
from tests.data.text.test_sentence_piece_tokenizer import OPTIONS
from tests.data.text.test_sentence_piece_tokenizer import trained as trained_model
from tests.weights.conftest import transformers

TEXTS = [*UNUSUAL, "<s>a</s>", "[CLS] a[SEP]", "x <mask> y"]
SMALL = {"num_layers": 1, "hidden_dim": 12, "num_heads": 3}


@pytest.fixture(scope="module")
def byte_pairs(tmp_path_factory):
    theirs = test_byte_pair_tokenizer.trained(lines(211), 700)
    theirs.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    theirs.save(str(file))
    config = data.read_tokenizer(file).get_config()
    return lambda adds_cls: data.BytePairTokenizer.from_config({**config, "adds_cls": adds_cls})


@pytest.fixture
def reloaded(caplog):
    """A function: directory -> what transformers makes of its files, without a warning."""
    logging.getLogger("transformers").propagate = True

    def load(directory):
        theirs = transformers.AutoTokenizer.from_pretrained(directory)
        assert not caplog.records
        return theirs

    return load


def assert_same(theirs, own, texts=TEXTS):
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    for text, mine, wanted in zip(texts, own(tf.constant(texts)).to_list(), expected, strict=True):
        assert mine == wanted, repr(text)


def test_modern_bert_and_its_tokenizer(byte_pairs, reloaded, tmp_path):
    own = byte_pairs(True)
    model = modern_bert.encoder(
        "modern_bert_base", **SMALL, vocabulary_size=len(own.vocabulary) + 3
    )
    weights.save(model, tmp_path / "first", tokenizer=own)
    theirs = reloaded(tmp_path / "first")
    assert_same(theirs, own)
    pair = theirs("a", "b")
    cls, sep, (a,), (b,) = own.cls_id, own.sep_id, own(["a"]).to_list()[0], own(["b"]).to_list()[0]
    assert dict(pair) == {"input_ids": [cls, a, sep, b, sep], "attention_mask": [1] * 5}
    assert (theirs.pad_token_id, theirs.mask_token_id) == (own.pad_id, own.mask_id)
    # What was loaded goes back with the same files.
    weights.save(weights.load(tmp_path / "first"), tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        first, again = ((tmp_path / folder / name).read_bytes() for folder in ("first", "again"))
        assert first == again


def test_gpt2_and_its_tokenizer(byte_pairs, reloaded, tmp_path):
    own = byte_pairs(False)
    model = gpt.decoder("gpt_tiny", **SMALL, vocabulary_size=len(own.vocabulary))
    weights.save(model, tmp_path, tokenizer=own)
    theirs = reloaded(tmp_path)
    assert_same(theirs, own)
    assert theirs("ab")["input_ids"] == own(["ab"]).to_list()[0]
    assert (theirs.bos_token_id, theirs.eos_token_id) == (own.cls_id, own.sep_id)


def test_roberta_goes_back_with_its_tokenizer(byte_pairs, reloaded, saved, tmp_path):
    own = byte_pairs(True)
    _, directory = saved("RobertaForMaskedLM", vocab_size=len(own.vocabulary), pad_token_id=1)
    config = own.get_config()
    merges = [tuple(merge.split(" ")) for merge in config["merges"]]
    theirs = transformers.RobertaTokenizer(vocab=config["vocabulary"], merges=merges)
    theirs.save_pretrained(directory)
    weights.save(weights.load(directory, "masked_lm"), tmp_path / "again")
    again = reloaded(tmp_path / "again")
    assert_same(again, weights.load(directory).tokenizer)
    for text in (("ab",), ("ab", "c <mask>")):
        assert dict(again(*text)) == dict(theirs(*text))


@pytest.mark.parametrize("kind", ["BertModel", "DistilBertModel"])
def test_bert_and_distilbert_go_back_with_their_tokenizer(kind, reloaded, saved, tmp_path):
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    vocabulary += [f"##{letter}" for letter in letters] + ["中", "é", "don"]
    _, directory = saved(kind, vocab_size=len(vocabulary))
    own = data.BertTokenizer(vocabulary)
    weights.save(weights.load(directory), tmp_path / "again", tokenizer=own)
    texts = [text for text in TEXTS if "\u180e" not in text and "[" not in text]
    assert_same(reloaded(tmp_path / "again"), own, texts)


def test_a_unigram_file_goes_along(reloaded, tmp_path):
    theirs = test_unigram_tokenizer.trained(lines(211), 1500)
    theirs.save(str(tmp_path / "tokenizer.json"))
    own = data.read_tokenizer(tmp_path)
    model = bert.encoder("bert_tiny", vocabulary_size=len(own.vocabulary))
    weights.save(model, tmp_path / "first", tokenizer=own)
    again = reloaded(tmp_path / "first")
    assert_same(again, own)
    assert (again.pad_token, again.mask_token, again.eos_token) == ("<pad>", "<mask>", "</s>")
    assert "token_type_ids" in again("a")
    weights.save(weights.load(tmp_path / "first"), tmp_path / "second")
    assert_same(reloaded(tmp_path / "second"), own)


def test_a_sentence_piece_model_goes_along(reloaded, tmp_path):
    own = data.SentencePieceTokenizer(trained_model(lines(211), 2200, **OPTIONS["bpe"]))
    model = gpt.decoder("gpt_tiny", **SMALL, vocabulary_size=len(own.vocabulary))
    weights.save(model, tmp_path, tokenizer=own)
    assert_same(reloaded(tmp_path), own, lines(97))
    assert weights.load(tmp_path).tokenizer.get_config()["model"] == own.model


def test_wrong_tokenizers_are_named(byte_pairs, tmp_path):
    own = byte_pairs(True)
    model = bert.encoder("bert_tiny", vocabulary_size=37)
    with pytest.raises(
        ValueError, match=f"`tokenizer` must have at most .* 37, got {len(own.vocabulary)}"
    ):
        weights.save(model, tmp_path, tokenizer=own)
    with pytest.raises(ValueError, match="must be None where `tokenizer` is given"):
        weights.save(model, tmp_path, tokenizer=own, lowercase=True)
    with pytest.raises(ValueError, match="BytePairTokenizer, .* or UnigramTokenizer, got object"):
        data.write_tokenizer(object(), tmp_path)
