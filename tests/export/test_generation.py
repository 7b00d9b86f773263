import functools
import re

import keras
import numpy as np
import pytest
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from keras_attn import data, decoding, export, layers, models
from keras_attn.export import isolation
from tests.export import cpp_loader, small
from tests.export.small import SIZE, VOCABULARY, ask_all, ask_here, sharp_gpt

pytestmark = pytest.mark.backends("tensorflow", reason="what is served is a TensorFlow graph")

LIMITS = {"prompt_length": 5, "max_new_tokens": 7}
REPETITION = {"min_p": 0.9, "repetition_penalty": 3.0, "no_repeat_ngram_size": 3}
STOP = 1  # rarely the most probable token: texts become long


@pytest.fixture(scope="module")
def tokenizer():
    return data.BertTokenizer(VOCABULARY)


@pytest.fixture(scope="module")
def gpt():
    keras.utils.set_random_seed(0)  # whatever ran before
    return sharp_gpt()


@pytest.fixture(scope="module")
def served(gpt, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt") / "gpt"
    generation = export.Generation(tokenizer, **LIMITS, beams=3, stop_id=STOP, **REPETITION)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(isolation, "FreshProcess", small.ThisProcess)
        made = export.publish(gpt, folder, generation=generation, server="2.12")
    assert list(made.signatures) == ["serving_default", "sample", "beam"]
    return str(made.path)


def counts(rows, value):
    return np.full(rows, value, "int32")


def any_repetition(rows):
    """Options of every request to `served` that have no effect."""
    return {"repetition_penalty": np.ones(rows, "float32"), "no_repeat_ngram_size": counts(rows, 0)}


def test_served_greedy_text_equals_the_search(served, gpt, tokenizer, loader):
    texts, most = ["the cat", "playing"], [7, 2]
    inputs = {"text": texts, "max_new_tokens": np.array(most, "int32"), **any_repetition(2)}
    got = cpp_loader.run(loader, served, "serving_default", inputs)["text"]
    for row, (text, count) in enumerate(zip(texts, most, strict=True)):
        search = functools.partial(
            decoding.greedy, max_new_tokens=count, stop_token_ids=[STOP], padding_id=0
        )
        generate = models.steps.generator(gpt, search, length=10)
        prompt = np.array([[2, *tokenizer([text]).to_list()[0]]])
        found = generate(prompt)["token_ids"].numpy()[:, prompt.shape[1] :]
        assert got[row] == tokenizer.detokenize(found).numpy()[0]


def test_sampled_text_depends_only_on_its_own_seed(served):
    def request(texts, seeds):
        rows = len(texts)
        options = {"max_new_tokens": counts(rows, 7), "top_k": counts(rows, 50)}
        options |= {"temperature": np.full(rows, 2.0, "float32"), "top_p": np.ones(rows, "float32")}
        options |= {"min_p": np.zeros(rows, "float32"), **any_repetition(rows)}
        return "sample", {"text": texts, "seed": np.array(seeds, "int32"), **options}

    requests = [request(["the cat", "the cat", "a"], [1, 2, 1]), request(["the cat"], [1])]
    both, alone = (answer["text"].tolist() for answer in ask_all(served, requests))
    assert alone == both[:1]
    assert both[0] != both[1]


def test_beams_are_sorted_by_score_and_limited(served):
    def beam(most, beams):
        options = {
            "max_new_tokens": counts(1, most),
            "beams": counts(1, beams),
            **any_repetition(1),
        }
        return "beam", {"text": ["the cat"], "length_penalty": np.zeros(1, "float32"), **options}

    requests = [beam(7, 3), beam(7, 1), beam(7, 4), beam(7, 0), beam(8, 1)]
    best, one, many, none, long = ask_all(served, requests)
    assert best["text"].shape == (1, 3)
    assert (np.diff(best["scores"][0]) <= 0).all()
    assert (one["scores"][0, 1:] == np.finfo("float32").min).all()
    assert "beams: at most 3" in many
    assert "beams must be above 0" in none
    assert "max_new_tokens: at most 7" in long


@pytest.mark.parametrize("compiled", [False, True], ids=["beam", "compiled greedy"])
def test_served_translations_equal_the_search(tokenizer, tmp_path, loader, compiled, checked_here):
    model = models.transformer.encoder_decoder(
        "transformer_tiny", vocabulary_size=len(VOCABULARY), num_layers=1
    )
    generation = export.Generation(
        tokenizer, **LIMITS, beams=2, searches=["greedy" if compiled else "beam"]
    )
    made = export.publish(
        model, tmp_path / "translation", generation=generation, jit_compile=compiled, server="2.12"
    )
    texts = ["the cat sat", "a mat"]
    asked = {"text": texts, "max_new_tokens": counts(2, 7)}
    if not compiled:
        asked |= {"beams": counts(2, 2), "length_penalty": np.zeros(2, "float32")}
    got = cpp_loader.run(loader, made.path, "serving_default", asked)["text"].tolist()
    best = got if compiled else [beams[0] for beams in got]
    search = decoding.greedy
    if not compiled:
        search = functools.partial(decoding.beam_search, beams=2)
    options = {"max_new_tokens": 7, "stop_token_ids": [tokenizer.sep_id], "padding_id": 0}
    generate = models.steps.generator(model, functools.partial(search, **options), length=8)
    for row, text in enumerate(texts):
        source = np.array([[tokenizer.cls_id, *tokenizer([text]).to_list()[0], tokenizer.sep_id]])
        found = generate(np.array([[tokenizer.cls_id]]), source_ids=source)["token_ids"]
        found = np.reshape(found, (-1, 8))[:1, 1:]
        assert best[row] == tokenizer.detokenize(found).numpy()[0]


def test_bfloat16_computation_returns_float32_scores(gpt, tokenizer, tmp_path, checked_here):
    generation = export.Generation(tokenizer, **LIMITS, beams=2, searches=["beam"])
    made = export.publish(gpt, tmp_path, generation=generation, compute_dtype="bfloat16")
    options = {"max_new_tokens": counts(1, 7), "beams": counts(1, 2)}
    answer = ask_here(made.path, text=["the cat"], length_penalty=[0.0], **options)
    assert answer["scores"].dtype == np.float32
    graph = saved_model_pb2.SavedModel.FromString((made.path / "saved_model.pb").read_bytes())
    nodes = [n for f in graph.meta_graphs[0].graph_def.library.function for n in f.node_def]
    assert {n.attr["T"].type for n in nodes if "MatMul" in n.op} == {types_pb2.DT_BFLOAT16}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_length": 0}, "`prompt_length` must be a positive integer, got 0"),
        ({"prompt_length": None}, "`prompt_length` must be a positive integer, got None"),
        ({"max_new_tokens": "8"}, "`max_new_tokens` must be a positive integer, got '8'"),
        ({"beams": 2.5}, "`beams` must be a positive integer, got 2.5"),
        ({"top_k": 0}, "`top_k` must be a positive integer, got 0"),
        ({"min_p": 1.5}, r"`min_p` must be in \[0, 1\], got 1.5"),
        ({"min_p": "0.1"}, r"`min_p` must be in \[0, 1\], got '0.1'"),
        ({"repetition_penalty": 0}, "`repetition_penalty` must be positive and finite, got 0"),
        ({"repetition_penalty": np.nan}, "`repetition_penalty` must be positive .* got nan"),
        ({"no_repeat_ngram_size": 2.0}, "`no_repeat_ngram_size` must be a positive .* got 2.0"),
        ({"searches": ["best"]}, r"`searches` must be among greedy, sample, beam, got \['best'\]"),
        ({"searches": []}, "`searches` must be among"),
    ],
)
def test_invalid_arguments_raise(tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        export.Generation(tokenizer, **{**LIMITS, **options})


def test_ids_beyond_the_vocabulary_are_written_as_unknown_tokens(tokenizer, tmp_path, checked_here):
    """An id without a token is written as [UNK]."""
    model = models.gpt.decoder("gpt_tiny", vocabulary_size=len(VOCABULARY) + 9, num_layers=1)
    matrix = model.get_layer("token_embedding").embeddings
    matrix.assign(
        np.where(np.arange(len(VOCABULARY) + 9) < len(VOCABULARY), 1, 50)[:, None] * matrix
    )
    generation = export.Generation(tokenizer, **LIMITS, searches=["greedy"])
    made = export.publish(model, tmp_path, generation=generation)
    (text,) = ask_here(made.path, text=["the"], max_new_tokens=counts(1, 3))["text"]
    assert set(text.split()) == {b"[UNK]"}


@pytest.mark.parametrize("token", [-1, 15, 1.5, "[CLS]"])
@pytest.mark.parametrize("name", ["start_id", "stop_id"])
def test_a_start_or_stop_id_outside_the_vocabulary_raises(
    gpt, tokenizer, tmp_path, name, token, checked_here
):
    generation = export.Generation(tokenizer, **LIMITS, searches="greedy", **{name: token})
    with pytest.raises(
        ValueError, match=rf"`{name}` must be an integer in \[0, 15\), got {re.escape(repr(token))}"
    ):
        export.publish(gpt, tmp_path / "gpt", generation=generation)


def test_a_tokenizer_of_another_vocabulary_size_raises(gpt, tmp_path):
    generation = export.Generation(data.BertTokenizer([*VOCABULARY, "more"]), **LIMITS)
    with pytest.raises(ValueError, match="`generation` must have the model's vocabulary of 15"):
        export.publish(gpt, tmp_path / "gpt", generation=generation)


def test_request_options_are_passed_to_the_search(served, gpt, tokenizer):
    texts, rows = ["the cat", "the cat"], 2
    asked = {"max_new_tokens": counts(rows, 7), "beams": counts(rows, 3), **any_repetition(rows)}
    penalty = np.array([0.0, 1.5], "float32")
    got = ask_here(served, "beam", text=texts, length_penalty=penalty, **asked)
    prompt = np.array([[2, *tokenizer(texts[:1]).to_list()[0]]])
    for row, exponent in enumerate(penalty):
        search = functools.partial(
            decoding.beam_search,
            beams=3,
            max_new_tokens=7,
            length_penalty=exponent,
            stop_token_ids=[STOP],
        )
        expected = models.steps.generator(gpt, search, length=10)(prompt)["scores"]
        np.testing.assert_allclose(got["scores"][row], expected[0], atol=1e-4)
    assert not np.allclose(got["scores"][0], got["scores"][1])

    def sample(top_p=1.0, seeds=range(9), top_k=50):
        options = {"temperature": np.full(9, 3.0, "float32"), "seed": np.array(seeds, "int32")}
        options |= {"top_p": np.full(9, top_p, "float32"), "top_k": counts(9, top_k)}
        options |= {"min_p": np.zeros(9, "float32"), **any_repetition(9)}
        return "sample", {"text": ["a"] * 9, "max_new_tokens": counts(9, 7), **options}

    # With only the most probable token there is one text, with all tokens there are several.
    requests = [sample(1e-6), sample(), sample(top_k=1)]
    requests += [sample(top_k=0), sample(seeds=[1]), sample(1.5), sample(0.0)]
    endless = {"text": texts, "length_penalty": np.array([0.0, np.inf], "float32"), **asked}
    *texts, no_token, few, above, none, no_number = ask_all(served, [*requests, ("beam", endless)])
    assert "length_penalty must be finite" in no_number
    low_top_p, all_tokens, one_token = (len(set(answer["text"])) for answer in texts)
    assert (low_top_p, one_token) == (1, 1) and all_tokens > 3
    assert "top_k must be above 0" in no_token
    assert "seed: one value for each text" in few
    assert "top_p: at most 1" in above
    assert "top_p must be above 0" in none


def test_repetition_options_apply_to_each_row(served, gpt, tokenizer):
    penalties, sizes = [1.0, 3.0, 1.0, 1.0], [0, 0, 1, 2]
    text, rows = "playing", 4
    asked = {"text": [text] * rows, "max_new_tokens": counts(rows, 7)}
    asked |= {"repetition_penalty": np.array(penalties, "float32")}
    asked |= {"no_repeat_ngram_size": np.array(sizes, "int32")}
    beams = {**asked, "beams": counts(rows, 2), "length_penalty": np.zeros(rows, "float32")}
    cold = {"temperature": np.full(rows, 1e-4, "float32"), "top_p": np.ones(rows, "float32")}
    cold |= {"seed": counts(rows, 1), "top_k": counts(rows, 50)}
    drawn = {**asked, **cold, "min_p": np.full(rows, 0.9, "float32")}
    requests = [
        ("serving_default", asked),
        ("beam", beams),
        ("sample", drawn),
        ("serving_default", {**asked, "repetition_penalty": np.full(rows, 3.5, "float32")}),
        ("serving_default", {**asked, "repetition_penalty": np.zeros(rows, "float32")}),
        ("serving_default", {**asked, "no_repeat_ngram_size": counts(rows, 4)}),
        ("serving_default", {**asked, "no_repeat_ngram_size": counts(rows, -1)}),
        ("sample", {**drawn, "min_p": np.full(rows, np.nan, "float32")}),
        ("sample", {**drawn, "min_p": np.full(rows, -0.1, "float32")}),
    ]
    greedy, beam, sample, *errors = ask_all(served, requests)
    assert sample["text"].tolist() == greedy["text"].tolist()
    assert len(set(greedy["text"])) > 2
    prompt = np.array([[2, *tokenizer([text]).to_list()[0]]])
    options = {"max_new_tokens": 7, "stop_token_ids": [STOP]}
    for row, (penalty, size) in enumerate(zip(penalties, sizes, strict=True)):
        own = {**options, "repetition_penalty": penalty, "no_repeat_ngram_size": size or None}
        search = functools.partial(decoding.greedy, **own)
        found = models.steps.generator(gpt, search, length=13)(prompt)["token_ids"]
        expected = tokenizer.detokenize(found[:, prompt.shape[1] :]).numpy()[0]
        assert greedy["text"][row] == expected
        search = functools.partial(decoding.beam_search, beams=2, **own)
        found = models.steps.generator(gpt, search, length=13)(prompt)["scores"]
        np.testing.assert_allclose(beam["scores"][row, :2], found[0], atol=1e-4)
    messages = ["repetition_penalty: at most 3.0", "repetition_penalty must be above 0"]
    messages += ["no_repeat_ngram_size: at most 3", "no_repeat_ngram_size: at least 0"]
    messages += ["min_p: at least 0", "min_p: at least 0"]
    for message, error in zip(messages, errors, strict=True):
        assert message in error


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.bert.pretraining(SIZE), "`generation` needs a model of .*bert_pretraining"),
        (
            lambda: models.gpt.decoder("gpt_tiny", vocabulary_size=15, max_length=12),
            "`max_new_tokens` and `prompt_length` together must be at most 11 for the model's 12 "
            "positions, got 12",
        ),
        (
            lambda: models.transformer.encoder_decoder(
                "transformer_tiny", vocabulary_size=15, position=layers.LearnedPositionEmbedding(6)
            ),
            "`max_new_tokens` must be at most 5 for the model's 6 positions, got 7",
        ),
    ],
    ids=["bert", "too long", "too long a target"],
)
def test_models_that_cannot_generate_raise(tokenizer, tmp_path, build, message):
    with pytest.raises(ValueError, match=message):
        export.publish(build(), tmp_path / "m", generation=export.Generation(tokenizer, **LIMITS))
    assert not (tmp_path / "m").exists()


def test_served_text_of_the_recurrent_translator_equals_the_search(
    tokenizer, tmp_path, checked_here
):
    model = models.rnn_attention.encoder_decoder(len(VOCABULARY), embedding_dim=4, units=6)
    model.set_weights([3 * weight for weight in model.get_weights()])
    generation = export.Generation(tokenizer, **LIMITS, searches=["greedy"])
    made = export.publish(model, tmp_path / "rnn", generation=generation)
    texts = ["the cat sat", "a mat"]
    got = ask_here(made.path, text=texts, max_new_tokens=counts(2, 7))["text"]
    options = {"max_new_tokens": 7, "stop_token_ids": [tokenizer.sep_id], "padding_id": 0}
    search = functools.partial(decoding.greedy, **options)
    generate = models.steps.generator(model, search, length=8)
    for row, text in enumerate(texts):
        source = np.array([[tokenizer.cls_id, *tokenizer([text]).to_list()[0], tokenizer.sep_id]])
        found = generate(np.array([[tokenizer.cls_id]]), source_ids=source)["token_ids"]
        assert got[row] == tokenizer.detokenize(np.asarray(found)[:, 1:]).numpy()[0]
