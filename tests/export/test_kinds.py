"""Every kind of model, from strings, in the C++ loader."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from keras_attn import data, export, models
from tests.export import cpp_loader
from tests.export.small import LENGTH, SIZE, VOCABULARY

pytestmark = pytest.mark.backends("tensorflow", reason="what is served is a TensorFlow graph")

TOKENIZER = data.BertTokenizer(VOCABULARY)
TEXT = {"text": ["the cat sat", "!"]}
PAIR = {"first": ["the cat", "a"], "second": ["sat on", "the mat."]}
CHOICE = {"prompt": ["the cat", "a"], "choices": [["sat", "on", "a"], ["mat", "cat", "!"]]}
LONG = {"question": ["the cat", "a"], "context": ["The cat sat  on a mat. " * 4, "A MAT!"]}
KINDS = {
    "classifier": (
        lambda encoder: models.bert_tasks.classifier(encoder, 3),
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


@pytest.mark.parametrize("kind", KINDS)
def test_the_cpp_loader_answers_as_keras_does(kind, loader, tmp_path):
    build, preprocessor, postprocessor, texts = KINDS[kind]
    model = build(models.bert.encoder(dataclasses.replace(SIZE, num_layers=1)))
    made = export.publish(
        model,
        tmp_path / kind,
        preprocessor=preprocessor,
        postprocessor=postprocessor,
        signatures=["serving_default"],
        server="2.19",
    )
    got = cpp_loader.run(loader, made.path, "serving_default", texts)
    tensors = {name: tf.constant(value) for name, value in texts.items()}
    features = preprocessor(*tensors.values())
    # One row at a time, and one window of a context at a time, put together by hand.
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
