"""The evaluation data of the examples is cached, and every pass over it has every batch.

TensorFlow may silently complete a cache after a prefetch with only one element when an iterator
over it is dropped after its first element: about once in a hundred times.
"""

import importlib
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from keras_attn import data

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "table", "row", "cell"]
IDS = [[2, 5, 6, 3], [2, 7, 3], [2, 6, 3], [2, 5, 5, 3], [2, 7, 7, 6, 3]] * 20

pytestmark = pytest.mark.backends("tensorflow", reason="the input pipelines are TensorFlow's")


@pytest.fixture
def example(monkeypatch):
    """A function: the name of an example -> its module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


def padded():
    return np.array([row + [0] * (40 - len(row)) for row in IDS], "int32")


def choices(example):
    examples = [("table row", ["cell", "row"], n % 2) for n in range(100)]
    return example("bert_choice").dataset(data.ChoicePreprocessor(VOCABULARY, 16), examples)


PIPELINES = {  # the evaluation data of an example, made small
    "bert_choice": choices,
    "bert_pretrain": lambda example: data.pretraining_dataset(
        tf.ragged.constant([[row[1:-1] * 2, row[1:-1]] for row in IDS], dtype=tf.int32),
        data.BertTokenizer(VOCABULARY),
        batch_size=4,
        length=16,
        count=20,
    ),
    "generate_text": lambda example: example("generate_text").batches(padded(), seed=None),
    "sentence_search": lambda example: example("sentence_search").batches(
        [(row, row, number) for number, row in enumerate(IDS)], seed=None
    ),
    "translate_rnn_attention": lambda example: example("translate_rnn_attention").batches(
        padded(), padded(), seed=None
    ),
    "translate_transformer": lambda example: example("translate_transformer").batches(
        [(row, row) for row in IDS], seed=None
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_evaluation_pipelines_do_not_end_with_a_prefetch(name, example):
    assert "Prefetch" not in type(PIPELINES[name](example)).__name__


@pytest.mark.parametrize(
    "name",
    [
        "generate_text",
        pytest.param("translate_rnn_attention", marks=pytest.mark.slow),
        pytest.param("translate_transformer", marks=pytest.mark.slow),
    ],
)
def test_caches_are_complete_after_a_dropped_iterator(name, example, monkeypatch):
    if name == "translate_transformer":
        monkeypatch.setattr(example(name), "BATCH_TOKENS", 320)
    dataset = PIPELINES[name](example)
    expected = sum(1 for _ in dataset)
    assert expected > 1
    for _ in range(100):
        cached = dataset.cache()
        next(iter(cached))
        assert sum(1 for _ in cached) == expected


def test_no_example_caches_after_a_prefetch_or_drops_an_iterator():
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "next(iter(" not in text, path.name
        assert not re.search(r"\.prefetch\([^)]*\)\s*\.", text), path.name


STREAMS = {  # the training data of an example
    "bert_choice": lambda example: example("bert_choice").dataset(
        data.ChoicePreprocessor(VOCABULARY, 16),
        [("table row", ["cell", "row"][:: 1 - 2 * (n % 2)], n % 2) for n in range(100)],
        seed=1,
    ),
    "generate_text": lambda example: example("generate_text").batches(padded(), seed=1),
    "translate_rnn_attention": lambda example: example("translate_rnn_attention").batches(
        padded(), padded(), seed=1
    ),
    "translate_transformer": lambda example: example("translate_transformer").batches(
        [(row, row) for row in IDS], seed=1
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_training_stream_is_the_same_in_each_iteration(name, example):
    stream = STREAMS[name](example).take(5)
    first, again = (list(stream.as_numpy_iterator()) for _ in range(2))
    for here, there in zip(tf.nest.flatten(first), tf.nest.flatten(again), strict=True):
        np.testing.assert_array_equal(here, there)


def test_an_endless_stream_reshuffles_all_rows_in_each_round(example):
    rows = example("_shared").endless(tf.data.Dataset.range(20), seed=7)
    rounds = np.array(list(rows.take(60).as_numpy_iterator())).reshape(3, 20)
    np.testing.assert_array_equal(np.sort(rounds), np.tile(np.arange(20), (3, 1)))
    assert len({tuple(order) for order in rounds}) == 3
