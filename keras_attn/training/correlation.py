"""How well two rows of numbers go together."""

from collections.abc import Sequence

import numpy as np


def correlation_scores(true: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """Pearson's correlation of the numbers, and Spearman's, which is that of their ranks.

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
    true, predicted = (np.ravel(np.asarray(row, "float64")) for row in (true, predicted))
    if len(true) != len(predicted) or len(true) < 2:
        raise ValueError(
            "`true` and `predicted` must hold two numbers or more, and equally many, "
            f"got {len(true)} and {len(predicted)}"
        )
    return {
        "pearson": _pearson(true, predicted),
        "spearman": _pearson(_ranks(true), _ranks(predicted)),
    }


def _pearson(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first @ first) * (second @ second))
    return float(np.clip(first @ second / scale, -1, 1)) if scale > 0 else float("nan")


def _ranks(row: np.ndarray) -> np.ndarray:
    """1 for the least; equal numbers share the mean of their ranks."""
    _, inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
