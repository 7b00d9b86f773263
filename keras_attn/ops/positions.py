"""Positions as sines and cosines: the table of sinusoids, and rotary embeddings.

Letters: B batch, T length, N heads, H head width, D model width, R rotated width.
"""

from typing import Any

import numpy as np
from keras import ops

from keras_attn.ops.numerics import widen


def sinusoids(
    positions: Any, dim: int, max_wavelength: float = 10_000.0, dtype: str = "float32"
) -> Any:
    """`sin(pos / w^(2i/D))` at even columns and `cos` of the same angle at odd ones.

    Args:
        positions: int or float, any shape `[...]`.
        dim: D, the width; even.
        max_wavelength: `w`; wavelengths run from 2 pi to 2 pi w.
        dtype: dtype of the computation and of the result.

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


def rotary_angles(
    positions: Any,
    dim: int,
    max_wavelength: float = 10_000.0,
    scaling: float = 1.0,
    dtype: str = "float32",
) -> Any:
    """`position / scaling * w^(-2i/R)` for each pair of columns, `[..., R / 2]` in `dtype`."""
    frequencies = np.power(float(max_wavelength), -np.arange(0, dim, 2) / dim).astype(dtype)
    return (ops.cast(positions, dtype) / scaling)[..., None] * ops.convert_to_tensor(frequencies)


def rotate(inputs: Any, angle: Any) -> Any:
    """Rotate column `i` against column `i + R/2` by `angle`; columns from R on stay as they are.

    Args:
        inputs: float `[B, T, N, H]`.
        angle: float `[T, R / 2]` or `[B, T, R / 2]`, from `rotary_angles`.

    Returns:
        `[B, T, N, H]` in the inputs' dtype; the rotation itself runs in float32, or in
        float64 for such inputs.

    Source: Su et al. 2021, section 3.4.2.
    """
    half = angle.shape[-1]
    x = widen(inputs)
    angle = ops.cast(angle, x.dtype)
    cos, sin = ops.cos(angle)[..., None, :], ops.sin(angle)[..., None, :]  # [..., T, N=1, R / 2]
    first, second, rest = x[..., :half], x[..., half : 2 * half], inputs[..., 2 * half :]
    turned = ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return ops.concatenate([ops.cast(turned, inputs.dtype), rest], axis=-1)
