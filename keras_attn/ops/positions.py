"""Position ids and the sinusoid table.

Letters: T length, D model width.
"""

from typing import Any

import numpy as np
from keras import ops


def sinusoids(positions: Any, dim: int, max_wavelength: float = 10_000.0) -> Any:
    """`sin(pos / w^(2i/D))` at even columns and `cos` of the same angle at odd ones.

    Args:
        positions: int or float, any shape `[...]`.
        dim: D, the width; even.
        max_wavelength: `w`; wavelengths run from 2 pi to 2 pi w.

    Returns:
        float32 `[..., D]`.

    Raises:
        ValueError: `dim` is not a positive even number.

    Source: Vaswani et al. 2017, section 3.5.

    Example:
    >>> import numpy as np
    >>> [round(float(x), 3) for x in sinusoids(np.array([1]), 4)[0]]
    [0.841, 0.54, 0.01, 1.0]
    """
    if dim <= 0 or dim % 2:
        raise ValueError(f"`dim` must be a positive even number, got {dim!r}")
    frequencies = np.power(float(max_wavelength), -np.arange(0, dim, 2) / dim).astype("float32")
    angles = ops.cast(positions, "float32")[..., None] * ops.convert_to_tensor(frequencies)
    pairs = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)  # [..., D / 2, 2]
    return ops.reshape(pairs, (*ops.shape(positions), dim))


def position_ids(sequence_ids: Any) -> Any:
    """Positions that restart at 0 wherever the sequence id changes (packed rows).

    Args:
        sequence_ids: int `[B, T]`, one id for each sequence in a row.

    Returns:
        int32 `[B, T]`.

    >>> position_ids(np.array([[7, 7, 7, 9, 9]])).numpy().tolist()
    [[0, 1, 2, 0, 1]]
    """
    index = ops.arange(ops.shape(sequence_ids)[1], dtype="int32")[None]  # [1, T]
    before = ops.concatenate([sequence_ids[:, :1], sequence_ids[:, :-1]], axis=1)
    starts = ops.where(ops.equal(sequence_ids, before), ops.zeros_like(index), index)  # [B, T]
    return index - ops.associative_scan(ops.maximum, starts, axis=1)
