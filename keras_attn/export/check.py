"""Is a written SavedModel what Keras computes, without Keras?"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from keras_attn.export import isolation
from keras_attn.export.signature import Signature


def check(path: str | os.PathLike, signatures: Mapping[str, Signature], tolerance: float) -> None:
    """Runs the first example of each signature in a fresh process and compares with Keras.

    Raises:
        ValueError: an answer differs, fails, or does not have the batch first; names it.
    """
    names = list(signatures)
    batches = [
        {key: isolation.as_array(value) for key, value in signatures[name].examples[0].items()}
        for name in names
    ]
    answers = isolation.run(path, list(zip(names, batches, strict=True)))
    for name, batch, answer in zip(names, batches, answers, strict=True):
        if isinstance(answer, str):
            raise ValueError(f"the signature {name!r} fails in a fresh process: {answer}")
        rows = len(next(iter(batch.values())))
        for key, expected in signatures[name](**batch).items():
            _compare(f"{name!r}, output {key!r}", expected.numpy(), answer[key], rows, tolerance)


def _compare(what: str, expected: np.ndarray, got: np.ndarray, rows: int, tolerance: float) -> None:
    if expected.shape[:1] != (rows,):
        raise ValueError(f"the signature {what} must have the batch first, got {expected.shape}")
    if expected.shape != got.shape:
        raise ValueError(f"the signature {what} gives {got.shape}, Keras {expected.shape}")
    if expected.dtype.kind == "f":
        difference = np.abs(expected - got)
        # Written so that NaN, which compares False with everything, is refused as well.
        if not (difference <= tolerance * (1 + np.abs(expected))).all():
            raise ValueError(
                f"the signature {what} differs from Keras by {np.max(difference, initial=0):.2g}, "
                f"more than {tolerance}"
            )
    # In half precision close runners-up may change places.
    elif tolerance < 1e-3 and not (expected == got).all():
        raise ValueError(f"the signature {what} differs from Keras: {got} is not {expected}")
