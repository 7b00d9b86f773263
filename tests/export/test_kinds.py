"""Every kind of model, served from strings, in the C++ loader."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from keras_attn import data, export, layers, models
from keras_attn.export import signatures
from tests.export import cpp_loader
from tests.export.small import LENGTH, SIZE, VOCABULARY, ask_all

pytestmark = pytest.mark.backends("tensorflow", reason="what is served is a TensorFlow graph")

TOKENIZER = data.BertTokenizer(VOCABULARY)
TEXT = {"text": ["the cat sat", "!"]}
PAIR = {"first": ["the cat", "a"], "second": ["sat on", "the mat."]}
CHOICE = {"prompt": ["the cat", "a"], "choices": [["sat", "on", "a"], ["mat", "cat", "!"]]}
LONG = {"question": ["the cat", "a"], "context": ["The cat sat  on a mat. " * 4, "A MAT!"]}


def modern_bert():
    size = models.sizes.ModernBertSize(
        2, 12, 3, 20, len(VOCABULARY), window=3, initializer_range=0.4
    )
    return models.modern_bert.encoder(size)


BYTES = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "at", "<|endoftext|>"]
BYTE_PAIRS = data.BytePairTokenizer(
    {token: index for index, token in enumerate(BYTES)},
    ["a t"],
    [{"content": "<|endoftext|>", "special": True}],
)


def gpt():
    size = models.sizes.GptSize(2, 12, 3, 20, len(BYTES), LENGTH, initializer_range=0.4)
    return models.gpt.encoder(size)


KINDS = {
    "gpt": (
        lambda encoder: models.bert_tasks.classifier(gpt(), 3),
        data.BertPreprocessor(BYTE_PAIRS, LENGTH),
        data.ClassificationPostprocessor(["a", "b", "c"]),
        TEXT,
    ),
    "classifier": (
        lambda encoder: models.bert_tasks.classifier(encoder, 3),
        data.BertPreprocessor(TOKENIZER, LENGTH),
        data.ClassificationPostprocessor(["a", "b", "c"]),
        TEXT,
    ),
    "modern_bert": (
        lambda encoder: models.bert_tasks.classifier(modern_bert(), 3, pooling="mean"),
        data.BertPreprocessor(TOKENIZER, LENGTH),
        data.ClassificationPostprocessor(["a", "b", "c"]),
        TEXT,
    ),
    "pairs": (
        models.bert_tasks.next_sentence,
        data.PairPreprocessor(TOKENIZER, LENGTH),
        data.ClassificationPostprocessor(["follows", "random"]),
        PAIR,
    ),
    "tagger": (
        lambda encoder: models.bert_tasks.tagger(encoder, 3),
        data.BertPreprocessor(TOKENIZER, LENGTH),
        data.TaggingPostprocessor(TOKENIZER, ["a", "b", "c"]),
        TEXT,
    ),
    "choice": (
        lambda encoder: models.bert_tasks.multiple_choice(encoder, 3),
        data.ChoicePreprocessor(TOKENIZER, LENGTH),
        data.ClassificationPostprocessor(["0", "1", "2"]),
        CHOICE,
    ),
    "span": (
        models.bert_tasks.span,
        data.SpanPreprocessor(TOKENIZER, LENGTH, question_length=4, overlap=3),
        data.SpanPostprocessor(),
        LONG,
    ),
}

WORDS = (
    lambda encoder: models.bert_tasks.tagger(encoder, 3),
    data.WordsPreprocessor(TOKENIZER, LENGTH, ["a", "b", "c"]),
    data.TaggingPostprocessor(TOKENIZER, ["a", "b", "c"]),
)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "span" else [pytest.mark.slow]) for kind in KINDS],
)
def test_outputs_in_the_cpp_loader_equal_keras(kind, loader, tmp_path, checked_here):
    build, preprocessor, postprocessor, texts = KINDS[kind]
    model = build(models.bert.encoder(dataclasses.replace(SIZE, num_layers=1)))
    made = export.publish(
        model,
        tmp_path / kind,
        preprocessor=preprocessor,
        postprocessor=postprocessor,
        signatures=["serving_default"],
        server="2.12",
    )
    got = cpp_loader.run(loader, made.path, "serving_default", texts)
    tensors = {name: tf.constant(value) for name, value in texts.items()}
    features = preprocessor(*tensors.values())
    # The expected outputs: one row, and one window of a context, at a time.
    rank = len(next(iter(model.input.values())).shape)
    inputs = {name: features[name].numpy() for name in model.input}
    lead = next(iter(inputs.values())).shape[:-1] if rank == 2 else (2,)
    inputs = {n: v.reshape(-1, *v.shape[len(lead) :]) for n, v in inputs.items()}
    outputs = model(inputs)
    if isinstance(outputs, dict):
        outputs = {n: np.reshape(v, (*lead, *v.shape[1:])) for n, v in outputs.items()}
    expected = postprocessor(outputs, {**tensors, **features})
    assert set(got) == set(expected)
    for name, value in expected.items():
        value = value.numpy()
        if value.dtype == object:
            assert got[name].tolist() == value.tolist()
        else:
            np.testing.assert_allclose(got[name], value, atol=1e-5)


def test_a_tagger_of_lists_of_words_is_served(tmp_path, checked_here):
    rows = [["The", "cat", "playing", "on"], ["a"], ["sat", "", "!"]]
    build, preprocessor, postprocessor = WORDS
    model = build(models.bert.encoder(dataclasses.replace(SIZE, num_layers=1)))
    made = export.publish(
        model,
        tmp_path / "words",
        preprocessor=preprocessor,
        postprocessor=postprocessor,
        signatures=["serving_default", "tokens"],
        server="2.12",
    )
    inputs, _ = made.signatures["serving_default"]
    assert inputs == {"words": export.Tensor("string", (None, None))}
    asked = {"words": [row + [""] * (4 - len(row)) for row in rows]}
    features = preprocessor(rows)
    ids = {
        "token_ids": features["token_ids"].numpy(),
        "lengths": features["padding_mask"].numpy().sum(1, dtype="int32"),
    }
    for got in ask_all(made.path, [("serving_default", asked), ("tokens", ids)]):
        for number, row in enumerate(rows):
            features = preprocessor([row])
            answer = postprocessor(model({name: features[name] for name in model.input}), features)
            for name in ("tokens", "tags"):
                (expected,) = answer[name].numpy().tolist()
                expected += [b""] * (got[name].shape[1] - len(expected))
                assert got[name][number].tolist() == expected
            (expected,) = answer["probabilities"].numpy()
            length = len(expected)
            np.testing.assert_allclose(got["probabilities"][number, :length], expected, atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in ("classifier", "choice") else [pytest.mark.slow])
        for kind in (*KINDS, "words")
    ],
)
def test_a_request_without_rows_has_an_answer_without_rows(kind):
    build, preprocessor, postprocessor = WORDS if kind == "words" else KINDS[kind][:3]
    model = build(models.bert.encoder(dataclasses.replace(SIZE, num_layers=1)))
    made = signatures.automatic(model, preprocessor, postprocessor, jit_compile=False)
    assert "tokens" in made
    for make in made.values():
        signature = make()
        graph = signature.traced()
        for width in (0, 5):
            inputs = {
                name: tf.zeros([0, *(size or width for size in spec.shape[1:])], spec.dtype)
                for name, spec in signature.inputs.items()
            }
            assert {len(output) for output in graph(**inputs).values()} == {0}


def test_a_model_without_text_inputs_is_served(loader, tmp_path, checked_here):
    numbers = keras.Input((None, 12), name="numbers")
    real = keras.Input((None,), dtype="bool", name="real")
    block = layers.TransformerEncoderBlock(3, 7, position=layers.RotaryEmbedding(), window=2)
    pooled = layers.SequencePooling("mean")(block(numbers, mask=real), mask=real)
    model = keras.Model({"numbers": numbers, "real": real}, {"pooled": pooled})
    made = export.publish(model, tmp_path / "numbers", server="2.12")
    assert made.signatures["serving_default"][1]["pooled"].shape == (None, 12)
    inputs = {
        "numbers": np.random.default_rng(0).normal(size=(2, 5, 12)).astype("float32"),
        "real": np.array([[True] * 5, [True, True, False, False, False]]),
    }
    got = cpp_loader.run(loader, made.path, "serving_default", inputs)
    np.testing.assert_allclose(got["pooled"], model(inputs)["pooled"], atol=1e-5)


def byte_pair_rows(**changes):
    """A preprocessor, texts, what it makes of them, and the request for the same tokens."""
    tokenizer = data.BytePairTokenizer.from_config({**BYTE_PAIRS.get_config(), **changes})
    preprocessor = data.SpanPreprocessor(tokenizer, LENGTH, question_length=4, overlap=3)
    texts = {"question": ["the", "a"], "context": ["at the cat!", "a cat"]}
    features = {k: v.numpy()[:, 0] for k, v in preprocessor(*texts.values()).items()}
    lengths = features["padding_mask"].sum(1, dtype="int32")
    return preprocessor, texts, features, {"token_ids": features["token_ids"], "lengths": lengths}


@pytest.mark.parametrize("separators", [1, 2])
def test_segments_of_tokens_equal_those_of_text_where_one_token_begins_and_ends_a_row(separators):
    preprocessor, _, features, request = byte_pair_rows(separators=separators)
    found = preprocessor.from_tokens(**request)
    for name in ("token_ids", "segment_ids", "padding_mask"):
        np.testing.assert_array_equal(found[name], features[name])


@pytest.mark.slow
def test_every_signature_of_a_gpt_with_a_byte_pair_tokenizer(tmp_path, checked_here):
    preprocessor, texts, features, request = byte_pair_rows()
    model = models.bert_tasks.span(gpt())
    made = export.publish(model, tmp_path / "gpt", preprocessor=preprocessor, server="2.12")
    assert {"serving_default", "tokens", "attention", "embed"} <= set(made.signatures)
    expected = model({name: features[name] for name in model.input})
    states = models.bert.encoder_of(model)({name: features[name] for name in model.input})
    got, vectors = ask_all(made.path, [("tokens", request), ("embed", texts)])
    for name in ("start", "end"):
        np.testing.assert_allclose(got[name], expected[name], atol=1e-4)
    mean = states["sequence_output"][1, : request["lengths"][1]].numpy().mean(0)
    np.testing.assert_allclose(vectors["mean"][1, 0], mean, atol=1e-4)


def test_a_model_whose_inputs_have_other_names_is_served(tmp_path, checked_here):
    class Words(data.BertPreprocessor):
        def call(self, text):
            rows = super().call(text)
            return {"words": rows["token_ids"], "real": rows["padding_mask"]}

    words = keras.Input((None,), dtype="int32", name="words")
    real = keras.Input((None,), dtype="bool", name="real")
    vectors = layers.SequencePooling("mean")(
        keras.layers.Embedding(len(VOCABULARY), 3)(words), mask=real
    )
    model = keras.Model([words, real], keras.layers.Dense(2, name="logits")(vectors))
    served = export.publish(model, tmp_path, preprocessor=Words(TOKENIZER, LENGTH))
    assert list(served.signatures) == ["serving_default"]
    rows = Words(TOKENIZER, LENGTH)(TEXT["text"])
    (answer,) = ask_all(served.path, [("serving_default", TEXT)])
    np.testing.assert_allclose(answer["logits"], model([rows["words"], rows["real"]]), atol=1e-6)


def test_an_embedder_is_served_with_its_own_vectors(tmp_path, checked_here):
    embedder = models.bert_tasks.embedder(
        models.bert.encoder(dataclasses.replace(SIZE, num_layers=1)), pooling="last"
    )
    preprocessor = data.BertPreprocessor(TOKENIZER, LENGTH)
    made = export.publish(
        embedder,
        tmp_path / "embedder",
        preprocessor=preprocessor,
        signatures=["serving_default", "embed"],
        server="2.12",
    )
    expected = embedder(preprocessor(TEXT["text"]))
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, rtol=1e-5)
    for got in ask_all(made.path, [("serving_default", TEXT), ("embed", TEXT)]):
        assert list(got) == ["embedding"]
        np.testing.assert_allclose(got["embedding"], expected, atol=1e-5)


def test_a_served_classifier_computes_one_position_in_its_last_block(monkeypatch):
    model = models.bert_tasks.classifier(models.bert.encoder(SIZE), 3)
    lengths = []
    for block in models.parts.of(model).encoder.blocks:
        feed_forward = block.feed_forward.call

        def recorded(inputs, feed_forward=feed_forward, **options):
            lengths.append(inputs.shape[1])
            return feed_forward(inputs, **options)

        monkeypatch.setattr(block.feed_forward, "call", recorded)
    made = signatures.automatic(model, None, None, jit_compile=False)["serving_default"]()
    tf.function(made.function).get_concrete_function(**made.inputs)
    assert lengths == [None, 1]
