import functools

import numpy as np
import pytest

from keras_attn import data, decoding, export, models
from keras_attn.export.isolation import as_array, run
from tests.export.small import VOCABULARY

pytestmark = pytest.mark.backends("tensorflow", reason="what is served is a TensorFlow graph")

LIMITS = {"prompt_length": 5, "max_new_tokens": 7, "beams": 3}


def sharp(model):
    """The model with weights large enough that its choices are clear."""
    model.set_weights([2.5 * weight for weight in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return data.BertTokenizer(VOCABULARY)


@pytest.fixture(scope="module")
def gpt():
    return sharp(models.gpt.decoder("gpt_tiny", vocabulary_size=len(VOCABULARY), num_layers=1))


@pytest.fixture(scope="module")
def served(gpt, tokenizer, tmp_path_factory):
    signatures = export.generation_signatures(gpt, tokenizer, **LIMITS)
    folder = tmp_path_factory.mktemp("gpt") / "gpt"
    return export.publish(gpt, folder, signatures=signatures, server="2.19").path


def counts(rows, value):
    return np.full(rows, value, "int32")


def test_greedy_text_is_what_the_search_gives(served, gpt, tokenizer):
    texts = ["the cat", "playing"]
    got = export.ask(served, text=texts, max_new_tokens=np.array([7, 2], "int32"))["text"]
    search = functools.partial(
        decoding.greedy, max_new_tokens=7, stop_token_ids=[tokenizer.sep_id], padding_id=0
    )
    generate = models.steps.generator(gpt, search, length=10)
    prompt = np.array([[2, *tokenizer(texts[:1]).to_list()[0]]])
    found = generate(prompt)["token_ids"].numpy()[:, prompt.shape[1] :]
    assert got[0] == tokenizer.detokenize(found).numpy()[0].decode()
    assert len(tokenizer(got[1:]).to_list()[0]) <= 2


def test_a_seed_gives_the_same_text_whatever_else_is_in_the_batch(served):
    def request(texts, seeds):
        rows = len(texts)
        return "sample", {
            "text": as_array(texts),
            "max_new_tokens": counts(rows, 7),
            "temperature": np.full(rows, 2.0, "float32"),
            "seed": np.array(seeds, "int32"),
        }

    requests = [request(["the cat", "the cat", "a"], [1, 2, 1]), request(["the cat"], [1])]
    both, alone = (answer["text"].tolist() for answer in run(served, requests))
    assert alone == both[:1]
    assert both[0] != both[1]


def test_beams_come_best_first_and_bounded(served):
    batch = {"text": as_array(["the cat"]), "max_new_tokens": counts(1, 7)}
    requests = [("beam", {**batch, "beams": counts(1, beams)}) for beams in (3, 4)]
    best, refused = run(served, requests)
    assert best["text"].shape == (1, 3)
    assert (np.diff(best["scores"][0]) <= 0).all()
    assert "beams: at most 3" in refused


def test_translation_from_strings_to_strings(tokenizer, tmp_path):
    model = sharp(
        models.transformer.encoder_decoder(
            "transformer_tiny", vocabulary_size=len(VOCABULARY), num_layers=1
        )
    )
    signatures = export.generation_signatures(model, tokenizer, **LIMITS, jit_compile=True)
    del signatures["sample"], signatures["beam"]
    made = export.publish(model, tmp_path / "translation", signatures=signatures)
    batches = [["the cat sat", "a mat"], ["a mat"]]
    requests = [
        ("serving_default", {"text": as_array(texts), "max_new_tokens": counts(len(texts), 7)})
        for texts in batches
    ]
    both, alone = run(made.path, requests)
    assert both["text"].shape == (2,)
    assert both["text"][1] == alone["text"][0]


def test_lengths_are_checked(gpt, tokenizer):
    with pytest.raises(ValueError, match="`prompt_length` must be at least 1, got 0"):
        export.generation_signatures(gpt, tokenizer, prompt_length=0, max_new_tokens=3)
