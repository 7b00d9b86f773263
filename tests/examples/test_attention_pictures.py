"""The examples that show attention in an encoder, with a tiny random one."""

import importlib
import pathlib

import keras
import numpy as np
import pytest

from keras_attn import data, weights
from keras_attn.models import bert
from tests.examples.runner import refusal, run_here

plt = pytest.importorskip("matplotlib.pyplot")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "the",
    "animal",
    "didn",
    "'",
    "t",
    "cross",
    "street",
    "because",
    "it",
    "was",
    "too",
    "tired",
    "narrow",
    "bank",
    "spring",
    "light",
]

pytestmark = pytest.mark.backends("tensorflow", reason="the tokenizer is TensorFlow's")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint")
    model = bert.encoder("bert_tiny", vocabulary_size=len(SPECIAL + WORDS), max_length=32)
    weights.save(model, directory, vocabulary=SPECIAL + WORDS, lowercase=True)
    return directory


def test_attention_it_writes_pictures_and_a_page(checkpoint, tmp_path, monkeypatch, capsys):
    options = ["--checkpoint", checkpoint, "--output", tmp_path]
    run_here(monkeypatch, "attention_it", *options)
    assert "of 4 heads are right in both sentences" in capsys.readouterr().out
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert {"it.png", "animal_block_1.png", "street_average.png"} <= pictures
    assert "narrow" in (tmp_path / "street.html").read_text(encoding="utf-8")


def test_contextual_words_compares_the_senses_of_a_word(checkpoint, tmp_path, monkeypatch, capsys):
    options = ["--checkpoint", checkpoint, "--output", tmp_path]
    with plt.rc_context():
        run_here(monkeypatch, "contextual_words", *options)
    plt.close("all")
    assert "have the same sense" in capsys.readouterr().out
    assert (tmp_path / "words_en.png").stat().st_size > 10_000


EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
CUT = ["an", "##im", "##al", "street", "it", "the", "spr", "##ing", "is", "wet"]


@pytest.fixture
def splitting(monkeypatch):
    """An encoder whose vocabulary splits "animal" into three tokens and "spring" into two."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    vocabulary = SPECIAL + CUT
    encoder = bert.encoder("bert_tiny", vocabulary_size=len(vocabulary), max_length=32)
    for weight in encoder.weights:
        weight.assign(keras.random.normal(weight.shape, stddev=0.5, seed=3))
    return encoder, data.BertTokenizer(vocabulary)


def test_attention_between_words_sums_over_keys_and_averages_over_queries(splitting):
    module = importlib.import_module("attention_it")
    tokens, places, layers = module.attend(*splitting, "The animal is it")
    assert [tokens[place] for place in places["animal"]] == ["an", "##im", "##al"]
    heads = layers["block_1"]["weights"].astype("float64")
    to_it = sum(heads[:, places["it"][0], place] for place in (2, 3, 4))
    np.testing.assert_allclose(module.between(heads, places["it"], places["animal"]), to_it)
    from_it = sum(heads[:, place, 6] for place in (2, 3, 4)) / 3
    np.testing.assert_allclose(module.between(heads, places["animal"], places["it"]), from_it)


def test_the_vector_of_a_word_is_the_mean_over_its_tokens(splitting):
    module = importlib.import_module("contextual_words")
    found = module.vectors(*splitting, "spring", ["the spring is wet", "spring"])
    assert found.shape[:2] == (3, 2)
    ids = np.array([[2, 10, 11, 12, 13, 14, 3]])  # [CLS] the spr ##ing is wet [SEP]
    inputs = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": ids > 0}
    last = keras.ops.convert_to_numpy(splitting[0](inputs)["sequence_output"])[0]
    np.testing.assert_allclose(found[-1, 0], (last[2] + last[3]) / 2, atol=1e-5)
    with pytest.raises(SystemExit, match="'spring' does not stand in 'the spr is' as a word"):
        module.vectors(*splitting, "spring", ["the spr is"])


@pytest.mark.parametrize("name", ["attention_it", "contextual_words"])
def test_a_missing_model_raises_with_instructions(name, tmp_path, monkeypatch):
    message = refusal(monkeypatch, name, cwd=tmp_path)
    assert "run examples/bert_pretrain.py, or choose another one" in message
