"""Answers out of a context: the best spans of two rows of logits, and how good the answers are."""

import collections
import re
import string
from collections.abc import Sequence

import numpy as np

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def best_spans(
    start: np.ndarray, end: np.ndarray, *, max_length: int = 30, n_best: int = 1
) -> list[tuple[int, int, float]]:
    """The spans with the highest sum of logits: first position, last position, sum.

    Args:
        start: logits `[T]`, of the first position.
        end: logits `[T]`, of the last.
        max_length: the most positions in a span.
        n_best: how many spans, the best first.

    Raises:
        ValueError: rows of unequal length; `max_length` or `n_best` not positive.

    Source: Devlin et al. 2019, section 4.2.

    Example:
    >>> best_spans([0.0, 5.0, 1.0], [9.0, 2.0, 3.0], max_length=2, n_best=2)
    [(0, 0, 9.0), (1, 2, 8.0)]
    """
    start, end = np.asarray(start, "float64"), np.asarray(end, "float64")
    if start.ndim != 1 or start.shape != end.shape:
        raise ValueError(
            f"`start` and `end` must be rows of one length, got shapes {start.shape}, {end.shape}"
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
    """Lower case, without ASCII punctuation, without the words a, an and the, single spaces."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(prediction: str, answer: str) -> float:
    """1 if the two are the same once normalized, otherwise 0."""
    return float(normalize_answer(prediction) == normalize_answer(answer))


def token_f1(prediction: str, answer: str) -> float:
    """F1 of the words of the two, once normalized; two empty ones agree.

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
    """Exact match and F1, each the mean over questions of the best over a question's answers.

    Args:
        predictions: one text for each question, "" for "there is no answer".
        answers: the right texts of each question; none where there is no answer.

    Returns:
        a dict of exact_match and f1, in [0, 1]: the SQuAD script prints them times 100.

    Raises:
        ValueError: no question; predictions and answers of unequal number.

    Source: Rajpurkar et al. 2016, section 6.1; 2018, section 5 (no answer).

    Example:
    >>> span_scores(["the cat sat", ""], [["A cat!", "A cat sat."], []])
    {'exact_match': 1.0, 'f1': 1.0}
    """
    if len(predictions) != len(answers) or not predictions:
        raise ValueError(
            f"`predictions` and `answers` must be of one number, and some, got {len(predictions)} "
            f"and {len(answers)}"
        )
    scores = {}
    for name, score in (("exact_match", exact_match), ("f1", token_f1)):
        best = [
            max(score(prediction, answer) for answer in _texts(right))
            for prediction, right in zip(predictions, answers, strict=True)
        ]
        scores[name] = sum(best) / len(best)
    return scores


def _texts(answers: Sequence[str]) -> list[str]:
    """The answers that say something, or the one that there is none."""
    return [answer for answer in answers if normalize_answer(answer)] or [""]
