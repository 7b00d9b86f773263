"""Scores that need all predictions at once, and a callback that logs them like metrics."""

import collections
import re
import string
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_attn._typing import Nested

OUTSIDE = "O"
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class PredictionScores(keras.callbacks.Callback):
    """After each epoch, predicts, and logs the scores that a function computes.

    The scores are added to the epoch's logs: the history has them, and so have the callbacks after
    this one in the list, such as EarlyStopping, ModelCheckpoint and TensorBoard.

    Args:
        inputs: the inputs for `model.predict`, always in the same order.
        score: a function from the predictions, arrays as returned by `model.predict`, to a dict of
            numbers.
        prefix: is put before each name in the logs.
        batch_size: batch size of the prediction, as `model.predict` takes it.

    Example:
    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.ones((2, 1))
    >>> scores = PredictionScores(x, lambda predictions: {"rows": len(predictions)})
    >>> model.fit(x, x, verbose=0, callbacks=[scores]).history["val_rows"]
    [2]
    """

    def __init__(
        self,
        inputs: Nested,
        score: Callable[[Nested], dict[str, float]],
        prefix: str = "val_",
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.score = score
        self.prefix = prefix
        self.batch_size = batch_size

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Predict, score, and add the scores to the logs."""
        model: Any = self.model
        logs = {} if logs is None else logs
        predictions = model.predict(self.inputs, batch_size=self.batch_size, verbose=0)
        for name, value in self.score(predictions).items():
            logs[self.prefix + name] = value


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The entities in a row of tags: type, first position, last position.

    B-x begins an entity of type x, and I-x continues it; an I-x after another type, or after O,
    also begins one. E-x ends an entity, and S-x is an entity of one token, where they are used.

    Raises:
        ValueError: a tag that is neither O nor one of these letters, a hyphen and a type.

    Example:
    >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC"]))
    [('LOC', 3, 3), ('PER', 0, 1)]
    """
    found, start, previous = set(), None, (OUTSIDE, "")
    for position, tag in enumerate((*tags, OUTSIDE)):
        prefix, kind = _parse(tag)
        if start is not None and (_begins(previous, prefix, kind) or prefix == OUTSIDE):
            found.add((previous[1], start, position - 1))
            start = None
        if start is None and prefix != OUTSIDE:
            start = position
        previous = prefix, kind
    return found


def entity_scores(
    true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Precision, recall and F1 of entities over all rows: type and both ends must be equal.

    Args:
        true: rows of tags.
        predicted: rows of tags, as long as those of `true`.

    Returns:
        a dict of precision, recall and f1, in [0, 1]; 0 where the divisor is 0.

    Raises:
        ValueError: rows of unequal number or length; an unknown tag.

    Source: Tjong Kim Sang and De Meulder 2003, section 4; the micro average of seqeval.

    Example:
    >>> entity_scores([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "O"]])
    {'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666}
    """
    lengths = [len(row) for row in true], [len(row) for row in predicted]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"`predicted` must have rows as long as those of `true`, {lengths[0][:5]} ..., "
            f"got {lengths[1][:5]} ..."
        )
    correct = expected = found = 0
    for true_row, predicted_row in zip(true, predicted, strict=True):
        first, second = entities(true_row), entities(predicted_row)
        correct += len(first & second)
        expected += len(first)
        found += len(second)
    precision = correct / found if found else 0.0
    recall = correct / expected if expected else 0.0
    total = precision + recall
    f1 = 2 * precision * recall / total if total else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def _parse(tag: str) -> tuple[str, str]:
    prefix, _, kind = tag.partition("-")
    if tag != OUTSIDE and (prefix not in ("B", "I", "E", "S") or not kind):
        raise ValueError(f"a tag must be O, or B-, I-, E- or S- and a type, got {tag!r}")
    return prefix, kind


def _begins(previous: tuple[str, str], prefix: str, kind: str) -> bool:
    """Whether a tag that is not O begins a new entity after the previous tag."""
    return prefix in ("B", "S") or previous[0] in ("E", "S") or previous[1] != kind


def best_spans(
    start: np.ndarray, end: np.ndarray, *, max_length: int = 30, n_best: int = 1
) -> list[tuple[int, int, float]]:
    """The spans with the highest sum of logits; deprecated, see `keras_attn.data`.

    `SpanPostprocessor` there finds the best answers over all windows.

    Args:
        start: logits `[T]` of the first position.
        end: logits `[T]` of the last position.
        max_length: the largest number of positions in a span.
        n_best: the number of spans, best first.

    Raises:
        ValueError: rows of unequal length; `max_length` or `n_best` not positive.

    Source: Devlin et al. 2019, section 4.2.

    Example:
    >>> warnings.simplefilter("ignore")
    >>> best_spans([0.0, 5.0, 1.0], [9.0, 2.0, 3.0], max_length=2, n_best=2)
    [(0, 0, 9.0), (1, 2, 8.0)]
    """
    warnings.warn(
        "`best_spans` is deprecated: `keras_attn.data.SpanPostprocessor` finds the best answers",
        DeprecationWarning,
        stacklevel=2,
    )
    start, end = np.asarray(start, "float64"), np.asarray(end, "float64")
    if start.ndim != 1 or start.shape != end.shape:
        raise ValueError(
            "`start` and `end` must be rows of the same length, "
            f"got shapes {start.shape}, {end.shape}"
        )
    if max_length <= 0 or n_best <= 0:
        raise ValueError(
            f"`max_length` and `n_best` must be positive, got {max_length!r} and {n_best!r}"
        )
    sums = start[:, None] + end[None, :]
    possible = np.triu(np.tri(len(start), k=max_length - 1))  # 0 <= last - first < max_length
    sums = np.where(possible > 0, sums, -np.inf)
    order = np.argsort(-sums, axis=None, kind="stable")[: min(n_best, int(possible.sum()))]
    return [
        (int(first), int(last), float(sums[first, last]))
        for first, last in zip(*np.unravel_index(order, sums.shape), strict=True)
    ]


def normalize_answer(text: str) -> str:
    """Lower-cased, without ASCII punctuation and the words a, an and the, with single spaces."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(prediction: str, answer: str) -> float:
    """1 if the two are equal after normalization, otherwise 0."""
    return float(normalize_answer(prediction) == normalize_answer(answer))


def token_f1(prediction: str, answer: str) -> float:
    """F1 of the words of the two after normalization; 1 if both are empty.

    Example:
    >>> token_f1("the cat sat", "A cat!")
    0.6666666666666666
    """
    words = normalize_answer(prediction).split(), normalize_answer(answer).split()
    if not words[0] or not words[1]:
        return float(words[0] == words[1])
    common = (collections.Counter(words[0]) & collections.Counter(words[1])).total()
    return 2 * common / (len(words[0]) + len(words[1]))


def span_scores(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match and F1: for each question the best over its answers, then the mean.

    Args:
        predictions: one text for each question, "" for "no answer".
        answers: the correct texts of each question; none if it has no answer.

    Returns:
        a dict of exact_match and f1, in [0, 1]: the SQuAD script prints them times 100.

    Raises:
        ValueError: no questions; `predictions` and `answers` of different length.

    Source: Rajpurkar et al. 2016, section 6.1; 2018, section 5 (no answer).

    Example:
    >>> span_scores(["the cat sat", ""], [["A cat!", "A cat sat."], []])
    {'exact_match': 1.0, 'f1': 1.0}
    """
    if len(predictions) != len(answers) or not predictions:
        raise ValueError(
            "`predictions` and `answers` must have the same length, at least 1, got "
            f"{len(predictions)} and {len(answers)}"
        )
    scores = {}
    for name, score in (("exact_match", exact_match), ("f1", token_f1)):
        best = [
            max(score(prediction, answer) for answer in _texts(correct))
            for prediction, correct in zip(predictions, answers, strict=True)
        ]
        scores[name] = sum(best) / len(best)
    return scores


def _texts(answers: Sequence[str]) -> list[str]:
    """The answers that are not empty after normalization, or [""] for "no answer"."""
    return [answer for answer in answers if normalize_answer(answer)] or [""]


def correlation_scores(true: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """Pearson's correlation of the numbers, and Spearman's, the correlation of their ranks.

    Args:
        true: n numbers.
        predicted: n numbers; shapes such as `[n, 1]` are flattened.

    Returns:
        a dict of pearson and spearman, in [-1, 1]; NaN where all numbers of a row are the same.

    Raises:
        ValueError: rows of unequal length, or fewer than two numbers.

    Source: Spearman 1904; ties get the mean of their ranks.

    Example:
    >>> correlation_scores([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])["spearman"]
    1.0
    """
    first, second = (np.ravel(np.asarray(row, "float64")) for row in (true, predicted))
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(
            "`true` and `predicted` must have the same length, at least 2, "
            f"got {len(first)} and {len(second)}"
        )
    return {
        "pearson": _pearson(first, second),
        "spearman": _pearson(_ranks(first), _ranks(second)),
    }


def _pearson(first: np.ndarray, second: np.ndarray) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:  # rounding of the mean could hide it
        return float("nan")
    first, second = first - first.mean(), second - second.mean()
    first, second = first / np.abs(first).max(), second / np.abs(second).max()
    scale = np.sqrt((first @ first) * (second @ second))
    return float(np.clip(first @ second / scale, -1, 1))


def _ranks(row: np.ndarray) -> np.ndarray:
    """Ranks from 1, the smallest; equal numbers get the mean of their ranks."""
    _, inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
