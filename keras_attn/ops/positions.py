"""The table of sinusoids.

Letter: D model width.
"""

from typing import Any

import numpy as np
from keras import ops


def sinusoids(
    positions: Any, dim: int, max_wavelength: float = 10_000.0, dtype: str = "float32"
) -> Any:
    """`sin(pos / w^(2i/D))` at even columns and `cos` of the same angle at odd ones.

    Args:
        positions: int or float, any shape `[...]`.
        dim: D, the width; even.
        max_wavelength: `w`; wavelengths run from 2 pi to 2 pi w.
        dtype: of the computation and of the result.

    Returns:
        float `[..., D]`.

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
    frequencies = np.power(float(max_wavelength), -np.arange(0, dim, 2) / dim).astype(dtype)
    angles = ops.cast(positions, dtype)[..., None] * ops.convert_to_tensor(frequencies)
    pairs = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)  # [..., D / 2, 2]
    return ops.reshape(pairs, (*ops.shape(positions), dim))
