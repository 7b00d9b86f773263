"""The examples that look into an encoder, with a tiny one of random weights."""

import pytest

from keras_attn import weights
from keras_attn.models import bert
from tests.examples.runner import printed_by, run

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


def test_where_it_looks(checkpoint, tmp_path):
    printed = printed_by("attention_it", "--checkpoint", checkpoint, "--output", tmp_path)
    assert "of 4 heads are right in both sentences" in printed
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert {"it.png", "animal_block_1.png", "street_average.png"} <= pictures
    assert "narrow" in (tmp_path / "street.html").read_text(encoding="utf-8")


def test_one_word_has_many_vectors(checkpoint, tmp_path):
    printed = printed_by("contextual_words", "--checkpoint", checkpoint, "--output", tmp_path)
    assert "have the same sense" in printed
    assert (tmp_path / "words_en.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["attention_it", "contextual_words"])
def test_without_a_model_the_message_says_how_to_get_one(name, tmp_path):
    status, printed = run(name, cwd=tmp_path)
    assert status != 0
    assert "give --checkpoint DIR, or run examples/bert_pretrain.py" in printed
