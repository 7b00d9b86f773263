"""Entity F1 against seqeval, correlations against scipy, answers against hand-computed values."""

import keras
import numpy as np
import pytest

from keras_attn.training import (
    PredictionScores,
    best_spans,
    correlation_scores,
    entities,
    entity_scores,
    exact_match,
    span_scores,
    token_f1,
)

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "I-LOC-X", "E-PER", "S-LOC"]


def rows(seed, tags, count=200):
    rng = np.random.default_rng(seed)
    return [list(rng.choice(tags, size=rng.integers(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("tags", [TAGS[:5], TAGS])
def test_entities_equal_seqeval(tags):
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    for row in rows(0, tags):
        row = [str(tag) for tag in row]
        assert entities(row) == set(labeling.get_entities(row)), row


@pytest.mark.parametrize("tags", [TAGS[:5], TAGS])
def test_scores_equal_seqeval(tags):
    seqeval = pytest.importorskip("seqeval.metrics")
    true = [[str(tag) for tag in row] for row in rows(1, tags)]
    rng = np.random.default_rng(2)
    predicted = [
        [tag if rng.random() < 0.7 else str(rng.choice(tags)) for tag in row] for row in true
    ]
    scores = entity_scores(true, predicted)
    assert 0 < scores["f1"] < 1
    for name in ("precision", "recall", "f1"):
        expected = getattr(seqeval, f"{name}_score")(true, predicted)
        assert scores[name] == pytest.approx(expected, abs=1e-12)


def test_scores_without_entities_are_zero():
    assert entity_scores([["O"]], [["O"]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_rows_of_unequal_length_raise():
    with pytest.raises(
        ValueError, match=r"`predicted` must have rows as long as those of `true`, "
    ):
        entity_scores([["O", "O"]], [["O"]])


@pytest.mark.parametrize("tag", ["PER", "X-PER", "B-", ""])
def test_an_unknown_tag_raises(tag):
    with pytest.raises(
        ValueError, match=f"a tag must be O, or B-, I-, E- or S- and a type, got '{tag}'"
    ):
        entities([tag])


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1, 1),
        ("tower", "the Eiffel Tower", 0, 2 / 3),
        ("in Paris, in France", "in in in", 0, 4 / 7),  # two of the three "in" match
        ("an anthem", "anthem", 1, 1),
        ("U.S.", "us", 1, 1),
        ("", "", 1, 1),
        ("the", "", 1, 1),
        ("word", "", 0, 0),
        ("left", "right", 0, 0),
    ],
)
def test_exact_match_and_f1_of_one_answer(prediction, answer, exact, f1):
    assert exact_match(prediction, answer) == exact
    assert token_f1(prediction, answer) == pytest.approx(f1)


def test_span_scores_take_the_best_answer_and_an_empty_answer():
    predictions = ["tower", "", "", "Paris"]
    answers = [["house", "the Eiffel Tower", "tower of"], [], ["Rome"], ["the"]]
    scores = span_scores(predictions, answers)
    assert scores["exact_match"] == pytest.approx(1 / 4)
    assert scores["f1"] == pytest.approx((2 / 3 + 1) / 4)


def test_unequal_numbers_of_predictions_and_answers_raise():
    with pytest.raises(ValueError, match="must have the same length, at least 1, got 1 and 2"):
        span_scores(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="got 0 and 0"):
        span_scores([], [])


def test_best_spans_equal_an_exhaustive_search():
    rng = np.random.default_rng(0)
    for length, longest in ((1, 3), (7, 3), (11, 20)):
        start, end = rng.normal(size=(2, length))
        spans = [
            (first, last, start[first] + end[last])
            for first in range(length)
            for last in range(first, min(length, first + longest))
        ]
        expected = sorted(spans, key=lambda span: -span[2])
        for n_best in (1, 5, 1000):
            with pytest.warns(DeprecationWarning, match="`best_spans` is deprecated"):
                found = best_spans(start, end, max_length=longest, n_best=n_best)
            assert found == expected[:n_best]


@pytest.mark.filterwarnings("ignore:`best_spans`:DeprecationWarning")
def test_invalid_best_spans_arguments_raise():
    with pytest.raises(ValueError, match=r"rows of the same length, got shapes \(2,\), \(3,\)"):
        best_spans(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="must be positive, got 0 and 1"):
        best_spans(np.zeros(2), np.zeros(2), max_length=0)


def test_correlations_equal_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    true = rng.integers(0, 5, 53).astype(float)  # with ties
    predicted = true + rng.normal(0, 2, 53)
    scores = correlation_scores(true, predicted[:, None])
    assert scores["pearson"] == pytest.approx(stats.pearsonr(true, predicted).statistic, abs=1e-12)
    expected = stats.spearmanr(true, predicted).statistic
    assert scores["spearman"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("constant", [1, 0.1])  # the mean of three 0.1 is not 0.1
def test_the_correlation_of_a_constant_is_nan(constant):
    assert np.isnan(correlation_scores([constant] * 3, [1, 2, 4])["pearson"])


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_correlation_does_not_depend_on_the_scale(scale):
    true, predicted = np.array([1, 2, 4]), np.array([1, 3, 2])
    scores = correlation_scores(true * scale, predicted * scale)
    assert scores == pytest.approx(correlation_scores(true, predicted), abs=1e-12)


def test_the_correlation_of_one_value_raises():
    with pytest.raises(ValueError, match="the same length, at least 2, got 1 and 1"):
        correlation_scores([1], [1])


def test_logged_scores_can_stop_training():
    """EarlyStopping uses the logged score, which falls after the second epoch."""
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    x, y = np.ones((5, 3)), np.ones((5, 1))
    numbers = iter([0.1, 0.2, 0.0, 0.3])
    seen = []

    def score(predictions):
        seen.append(predictions.shape)
        return {"best": next(numbers)}

    stop = keras.callbacks.EarlyStopping("val_best", patience=1, mode="max")
    callbacks = [PredictionScores(x, score, batch_size=2), stop]
    history = model.fit(x, y, epochs=4, verbose=0, callbacks=callbacks)
    assert history.history["val_best"] == [0.1, 0.2, 0.0]
    assert seen == [(5, 1)] * 3
