import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_attn.data import BertTokenizer, pretraining_dataset, rows_of
from keras_attn.data.text.vocabulary import SPECIAL_TOKENS

TOKENIZER = BertTokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(89)), "##x", "##y"])
GENERATOR = np.random.default_rng(2)
DOCUMENTS = tf.ragged.constant(
    [
        [GENERATOR.integers(5, 96, size=GENERATOR.integers(1, 17)).tolist() for _ in range(n)]
        for n in [3, 13, 7, 29, 2, 19]
    ],
    ragged_rank=2,
    dtype=tf.int32,
)
LENGTH = 31


def examples(count, batch_size, **options):
    """The first `count` examples of the stream, one by one."""
    stream = pretraining_dataset(
        DOCUMENTS, TOKENIZER, **{"batch_size": batch_size, "length": LENGTH, **options}
    )
    return [tf.nest.flatten(one) for one in stream.unbatch().take(count).as_numpy_iterator()]


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_element_spec_has_the_documented_names_shapes_and_dtypes():
    features, labels, weights = pretraining_dataset(
        DOCUMENTS, TOKENIZER, batch_size=3, length=LENGTH
    ).element_spec
    assert {key: (tuple(x.shape), x.dtype.name) for key, x in features.items()} == {
        "token_ids": ((3, 31), "int32"),
        "segment_ids": ((3, 31), "int32"),
        "padding_mask": ((3, 31), "bool"),
        "masked_positions": ((3, 4), "int32"),
    }
    assert {key: (tuple(x.shape), x.dtype.name) for key, x in labels.items()} == {
        "masked_lm": ((3, 4), "int32"),
        "next_sentence": ((3,), "int32"),
    }
    assert {key: (tuple(x.shape), x.dtype.name) for key, x in weights.items()} == {
        "masked_lm": ((3, 4), "float32"),
        "next_sentence": ((3,), "float32"),
    }


def test_rows_have_the_format_of_bert():
    stream = pretraining_dataset(DOCUMENTS, TOKENIZER, batch_size=59, length=LENGTH)
    features, labels, weights = next(stream.as_numpy_iterator())
    ids, positions = features["token_ids"].copy(), features["masked_positions"]
    assert (weights["next_sentence"] == 1).all()
    for i in range(59):
        count = int(weights["masked_lm"][i].sum())
        assert count >= 1
        ids[i, positions[i, :count]] = labels["masked_lm"][i, :count]
        used = features["padding_mask"][i].sum()
        assert features["padding_mask"][i].tolist() == [True] * used + [False] * (LENGTH - used)
        assert ids[i, 0] == TOKENIZER.cls_id
        seps = np.flatnonzero(ids[i] == TOKENIZER.sep_id)
        assert len(seps) == 2
        assert seps[1] == used - 1
        segments = (np.arange(LENGTH) > seps[0]) & features["padding_mask"][i]
        assert features["segment_ids"][i].tolist() == segments.astype(int).tolist()


@pytest.mark.parametrize("whole_word", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_stream_depends_on_the_seed_and_not_on_the_batch_size(whole_word):
    ours = examples(60, 12, seed=9, whole_word=whole_word)
    assert_equal(ours, examples(60, 5, seed=9, whole_word=whole_word))
    other = examples(60, 12, seed=10, whole_word=whole_word)
    assert any((a != b).any() for a, b in zip(ours[0], other[0], strict=True))


@pytest.fixture(scope="module")
def first_examples():
    return examples(220, 10)


@pytest.mark.parametrize("start", [pytest.param(7, marks=pytest.mark.slow), 200])
def test_start_continues_the_stream_at_that_example(start, first_examples):
    assert_equal(first_examples[start : start + 20], examples(20, 10, start=start))


def test_a_late_start_does_not_read_earlier_examples():
    assert len(examples(4, 2, start=10**12)) == 4


def test_a_stream_with_a_count_ends_with_a_smaller_batch(first_examples):
    stream = pretraining_dataset(DOCUMENTS, TOKENIZER, batch_size=8, length=LENGTH, count=19)
    batches = list(stream)
    assert [len(features["token_ids"]) for features, _, _ in batches] == [8, 8, 3]
    ended = [tf.nest.flatten(one) for one in stream.unbatch().as_numpy_iterator()]
    assert_equal(ended, first_examples[:19])


def test_rows_of_estimates_the_number_of_rows():
    assert rows_of(DOCUMENTS, LENGTH) == len(DOCUMENTS.flat_values) // 28


def test_model_fit_uses_the_labels_and_weights_of_the_stream():
    """Uniform predictions, so that the loss is ln V at each weighted position, for any label."""
    inputs = {
        "token_ids": keras.Input((LENGTH,), dtype="int32", name="token_ids"),
        "segment_ids": keras.Input((LENGTH,), dtype="int32", name="segment_ids"),
        "padding_mask": keras.Input((LENGTH,), dtype="bool", name="padding_mask"),
        "masked_positions": keras.Input((None,), dtype="int32", name="masked_positions"),
    }
    hidden = keras.layers.Embedding(96, 5)(inputs["masked_positions"])
    pooled = keras.layers.GlobalAveragePooling1D()(
        keras.layers.Embedding(96, 5)(inputs["token_ids"])
    )
    outputs = {
        "masked_lm": keras.layers.Dense(96, kernel_initializer="zeros", name="masked_lm")(hidden),
        "next_sentence": keras.layers.Dense(2, name="next_sentence", kernel_initializer="zeros")(
            pooled
        ),
    }
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), {"masked_lm": loss, "next_sentence": loss})
    stream = pretraining_dataset(DOCUMENTS, TOKENIZER, batch_size=3, length=LENGTH)
    history = model.fit(stream, steps_per_epoch=2, shuffle=False, verbose=0)
    weights = [weights["masked_lm"].numpy() for _, _, weights in stream.take(2)]
    assert 0 < np.mean(weights) < 1
    expected = np.log(96) * np.mean(weights) + np.log(2)
    np.testing.assert_allclose(history.history["loss"], [expected], rtol=1e-6)


def test_invalid_arguments_raise():
    options = {"batch_size": 2, "length": LENGTH}
    small = BertTokenizer([*SPECIAL_TOKENS, "a"])
    highest = int(tf.reduce_max(DOCUMENTS.flat_values))
    with pytest.raises(
        ValueError, match=f"`documents` must be ids below the vocabulary's size 6, got {highest}"
    ):
        pretraining_dataset(DOCUMENTS, small, **options)
    for name, value, least in (("batch_size", 0, 1), ("length", 6, 7), ("start", -1, 0)):
        with pytest.raises(ValueError, match=f"`{name}` must be at least {least}, got {value}"):
            pretraining_dataset(DOCUMENTS, TOKENIZER, **{**options, name: value})
    with pytest.raises(ValueError, match="`documents` must hold at least two documents"):
        pretraining_dataset(DOCUMENTS[:1], TOKENIZER, **options)


def test_the_stream_does_not_end_with_a_prefetch():
    """tests/data/pretraining/test_packing.py says what a prefetch before a cache does."""
    stream = pretraining_dataset(DOCUMENTS, TOKENIZER, batch_size=2, length=LENGTH)
    assert "Prefetch" not in repr(stream)
