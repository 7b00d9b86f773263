"""What transformers makes of the tokenizer's files beside a checkpoint that `save` wrote."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_attn import data, weights
from keras_attn.models import bert, gpt, modern_bert
from tests.data.text import test_byte_pair_tokenizer, test_unigram_tokenizer
from tests.data.text.test_byte_pair_tokenizer import UNUSUAL, lines
from tests.data.text.test_sentence_piece_tokenizer import OPTIONS
from tests.data.text.test_sentence_piece_tokenizer import trained as trained_model
from tests.weights.conftest import torch, transformers

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


def test_roberta_is_saved_with_its_tokenizer(byte_pairs, reloaded, saved, tmp_path):
    own = byte_pairs(True)
    _, directory = saved("RobertaForMaskedLM", vocab_size=len(own.vocabulary), pad_token_id=1)
    config = own.get_config()
    merges = [tuple(merge.split(" ")) for merge in config["merges"]]
    theirs = transformers.RobertaTokenizer(vocab=config["vocabulary"], merges=merges)
    theirs.model_max_length = 17
    theirs.save_pretrained(directory)
    weights.save(weights.load(directory, "masked_lm"), tmp_path / "again")
    again = reloaded(tmp_path / "again")
    assert again.model_max_length == 17
    assert_same(again, weights.load(directory).tokenizer)
    assert (again.bos_token, again.eos_token) == (theirs.bos_token, theirs.eos_token)
    for text in (("ab",), ("ab", "c <mask>")):
        assert dict(again(*text)) == dict(theirs(*text))


def test_a_tokenizer_is_not_written_beside_files_of_another(byte_pairs, tmp_path):
    own = byte_pairs(False)
    data.write_tokenizer(own, tmp_path)
    data.write_tokenizer(own, tmp_path)
    (tmp_path / "special_tokens_map.json").write_text("{}")
    with pytest.raises(ValueError, match=r"got .* with special_tokens_map\.json: remove them"):
        data.write_tokenizer(own, tmp_path)


def test_a_linked_file_is_replaced_and_not_written_through(byte_pairs, tmp_path):
    (tmp_path / "shared").write_text("of another")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "tokenizer.json").symlink_to(tmp_path / "shared")
    data.write_tokenizer(byte_pairs(False), tmp_path / "own")
    assert (tmp_path / "shared").read_text() == "of another"
    assert len(data.read_tokenizer(tmp_path / "own").vocabulary) > 1


def test_an_ordinary_token_with_the_name_of_a_role_stays_one(byte_pairs, reloaded, tmp_path):
    config = byte_pairs(False).get_config()
    kept = [token for token in config["added_tokens"] if token["content"] != "<pad>"]
    own = data.BytePairTokenizer.from_config({**config, "added_tokens": kept})
    data.write_tokenizer(own, tmp_path)
    theirs = reloaded(tmp_path)
    assert theirs("a<pad>b")["input_ids"] == own(["a<pad>b"]).to_list()[0]
    assert theirs.pad_token is None


@pytest.mark.parametrize("files", [1, 2], ids=["tokenizer.json", "vocab.json and merges.txt"])
def test_pairs_of_roberta_have_two_separators(files, byte_pairs, tmp_path):
    config = byte_pairs(True).get_config()
    merges = [tuple(merge.split(" ")) for merge in config["merges"]]
    theirs = transformers.RobertaTokenizer(vocab=config["vocabulary"], merges=merges)
    theirs.save_pretrained(tmp_path)
    if files == 2:
        (tmp_path / "vocab.json").write_text(json.dumps(config["vocabulary"]), encoding="utf-8")
        (tmp_path / "merges.txt").write_text("\n".join(config["merges"]), encoding="utf-8")
        (tmp_path / "tokenizer.json").unlink()
    own = data.read_tokenizer(tmp_path)
    pairs = [("one", "two and three"), ("a longer text than fits", "ab"), ("", "")]
    for length in (8, 30):
        features = data.PairPreprocessor(own, length)(*zip(*pairs, strict=True))
        wanted = theirs(*zip(*pairs, strict=True), max_length=length, truncation=True, padding=True)
        assert features["token_ids"].numpy().tolist() == wanted["input_ids"]
        assert features["padding_mask"].numpy().astype(int).tolist() == wanted["attention_mask"]
    with pytest.raises(ValueError, match="`length` must be at least 6, got 5"):
        data.PairPreprocessor(own, 5)


def test_windows_of_roberta_have_two_separators(byte_pairs, tmp_path):
    config = byte_pairs(True).get_config()
    merges = [tuple(merge.split(" ")) for merge in config["merges"]]
    theirs = transformers.RobertaTokenizer(vocab=config["vocabulary"], merges=merges)
    theirs.save_pretrained(tmp_path)
    layer = data.SpanPreprocessor(data.read_tokenizer(tmp_path), 26, question_length=6, overlap=3)
    question, context = "who sang", "; ".join(["Ann, who had a cold, sang loud"] * 3)
    wanted = theirs(
        question,
        context,
        max_length=len(theirs(question)["input_ids"]) + 2 + layer.window_length,
        stride=3,
        truncation="only_second",
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    features, labels, _ = layer([question], [context], ["a cold"], [context.index("a cold")])
    rows = [row[row != layer.tokenizer.pad_id].tolist() for row in features["token_ids"][0].numpy()]
    assert rows == wanted["input_ids"]
    for window, offsets in enumerate(wanted["offset_mapping"]):
        inside = [index == 1 for index in wanted.sequence_ids(window)]
        mine = features["offsets"][0, window].numpy()[: len(inside)]
        assert (mine[:, 0] >= 0).tolist() == inside
        assert mine[inside][:, 1].tolist() == [end for _, end in np.array(offsets)[inside]]
    start, end = int(labels["start"][0, 0]), int(labels["end"][0, 0])
    answer = layer.answers([context], features["offsets"][:, 0], [start], [end])
    assert answer.numpy().tolist() == [b"a cold"]


def test_pairs_of_strings_to_the_logits_of_xlm_roberta(saved, reloaded, tmp_path):
    file = json.loads(test_unigram_tokenizer.trained(lines(211), 1500).to_str())
    special = {"<s>": 0, "<pad>": 0, "</s>": 0, "<unk>": 0}
    scores = special | dict(file["model"]["vocab"]) | {"<mask>": 0}
    theirs = transformers.XLMRobertaTokenizer(vocab=list(scores.items()))
    sizes = {"vocab_size": len(theirs), "pad_token_id": 1, "type_vocab_size": 1, "num_labels": 5}
    model, directory = saved("XLMRobertaForSequenceClassification", **sizes)
    theirs.save_pretrained(directory)
    first, second = ["wer singt, who sings", "a b c"], ["Ann sang laut", "ja"]
    with torch.no_grad():
        wanted = model(**theirs(first, second, padding=True, return_tensors="pt")).logits.numpy()

    loaded = weights.load(directory, "classifier")
    features = data.PairPreprocessor(loaded.tokenizer, 40)(first, second)
    features = {name: features[name].numpy() for name in loaded.model.input}
    logits = keras.ops.convert_to_numpy(loaded.model(features, training=False))
    np.testing.assert_allclose(logits, wanted, atol=1e-5)
    weights.save(loaded, tmp_path / "again")
    assert (
        reloaded(tmp_path / "again")(first, second)["input_ids"] == theirs(first, second).input_ids
    )


@pytest.mark.parametrize("kind", ["BertModel", "DistilBertModel"])
def test_bert_and_distilbert_are_saved_with_their_tokenizer(kind, reloaded, saved, tmp_path):
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    vocabulary += [f"##{letter}" for letter in letters] + ["中", "é", "don"]
    _, directory = saved(kind, vocab_size=len(vocabulary))
    own = data.BertTokenizer(vocabulary)
    weights.save(weights.load(directory), tmp_path / "again", tokenizer=own)
    texts = [text for text in TEXTS if "\u180e" not in text and "[" not in text]
    assert_same(reloaded(tmp_path / "again"), own, texts)


def test_a_model_is_saved_with_a_unigram_tokenizer(reloaded, tmp_path):
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


def test_a_model_is_saved_with_a_sentence_piece_tokenizer(reloaded, tmp_path):
    own = data.SentencePieceTokenizer(trained_model(lines(211), 2200, **OPTIONS["bpe"]))
    model = gpt.decoder("gpt_tiny", **SMALL, vocabulary_size=len(own.vocabulary))
    weights.save(model, tmp_path, tokenizer=own)
    assert_same(reloaded(tmp_path), own, lines(97))
    assert weights.load(tmp_path).tokenizer.get_config()["model"] == own.model


def test_invalid_tokenizers_raise(byte_pairs, tmp_path):
    own = byte_pairs(True)
    model = bert.encoder("bert_tiny", vocabulary_size=37)
    with pytest.raises(
        ValueError, match=f"`tokenizer` must have at most .* 37, got {len(own.vocabulary)}"
    ):
        weights.save(model, tmp_path, tokenizer=own)
    with pytest.raises(ValueError, match="for gpt2, and `tokenizer` no BertTokenizer: its tokeni"):
        words = data.BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
        weights.save(gpt.decoder("gpt_tiny", **SMALL), tmp_path, tokenizer=words)
    with pytest.raises(ValueError, match="must be None if `tokenizer` is given"):
        weights.save(model, tmp_path, tokenizer=own, lowercase=True)
    with pytest.raises(ValueError, match="BytePairTokenizer, .* or UnigramTokenizer, got object"):
        data.write_tokenizer(object(), tmp_path)
