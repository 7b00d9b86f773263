"""Positions as sines and cosines: the table of sinusoids, and rotary embeddings.

Letters: B batch, T length, N heads, H head width, D model width, Hr rotated width.
"""

import dataclasses
import math

import numpy as np
from keras import ops

from keras_attn._checks import check_count, check_positive
from keras_attn._keras import register
from keras_attn._typing import Tensor
from keras_attn.ops.numerics import widen


def sinusoids(
    positions: Tensor, dim: int, max_wavelength: float = 10_000.0, dtype: str = "float32"
) -> Tensor:
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


class RotaryScaling:
    """How rotary frequencies change to serve longer inputs than a model was trained on.

    The base of `NtkScaling`, `YarnScaling` and `Llama3Scaling`: frozen records, which are saved
    with the layer that holds them.
    """

    # What the rotated columns are multiplied by.
    magnitude = 1.0

    def frequencies(self, dim: int, max_wavelength: float) -> np.ndarray:
        """The angle that each pair of columns turns at each position, float64 `[Hr / 2]`."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict) -> "RotaryScaling":
        """The record with these fields."""
        return cls(**config)

    def get_config(self) -> dict:
        """All fields."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


@register()
@dataclasses.dataclass(frozen=True)
class NtkScaling(RotaryScaling):
    """A larger wavelength: the fastest pair of columns stays, the slowest turns `factor` slower.

    Source: bloc97 2023; Peng et al. 2024 (YaRN), section 3.1.

    Example:
    >>> plain, scaled = (rotary_frequencies(8, 100.0, by) for by in (1.0, NtkScaling(4.0)))
    >>> (plain / scaled).round(2).tolist()
    [1.0, 1.59, 2.52, 4.0]
    """

    factor: float

    def __post_init__(self) -> None:
        check_positive("factor", self.factor)

    def frequencies(self, dim: int, max_wavelength: float) -> np.ndarray:
        """See `RotaryScaling`."""
        exponent = dim / (dim - 2) if dim > 2 else 0.0
        return rotary_frequencies(dim, max_wavelength * self.factor**exponent)


@register()
@dataclasses.dataclass(frozen=True)
class YarnScaling(RotaryScaling):
    """Pairs of columns that turn often in the original length stay, the slow ones are stretched.

    Args:
        factor: by how much the slow pairs are stretched.
        original_length: length that the model was trained on.
        beta_fast: a pair that turns more often than this in that length stays.
        beta_slow: a pair that turns less often than this is stretched whole.
        attention_factor: what the rotated columns are multiplied by; defaults to
            `0.1 ln(factor) + 1`.
        truncate: whether the bounds between these kinds of pairs are whole pairs.

    Source: Peng et al. 2024 (YaRN), sections 3.2 and 3.4.
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        check_count("original_length", self.original_length)
        for name in ("factor", "beta_fast", "beta_slow"):
            check_positive(name, getattr(self, name))
        if self.beta_fast <= self.beta_slow:
            raise ValueError(
                "`beta_fast` must be larger than `beta_slow`, got "
                f"{self.beta_fast!r} and {self.beta_slow!r}"
            )
        if self.attention_factor is not None:
            check_positive("attention_factor", self.attention_factor)

    @property
    def magnitude(self) -> float:  # type: ignore[override]
        """See `RotaryScaling`."""
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(max(self.factor, 1.0)) + 1.0

    def frequencies(self, dim: int, max_wavelength: float) -> np.ndarray:
        """See `RotaryScaling`."""
        low, high = (self._pair(turns, dim, max_wavelength) for turns in self._turns())
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        width = high - low or 0.001
        stretched = np.clip((np.arange(dim // 2) - low) / width, 0, 1)
        plain = rotary_frequencies(dim, max_wavelength)
        return plain * (1 - stretched) + plain / self.factor * stretched

    def _turns(self) -> tuple[float, float]:
        return self.beta_fast, self.beta_slow

    def _pair(self, turns: float, dim: int, max_wavelength: float) -> float:
        """The number of the pair that turns so often in the original length."""
        wavelength = self.original_length / (turns * 2 * math.pi)
        return dim * math.log(wavelength) / (2 * math.log(max_wavelength))


@register()
@dataclasses.dataclass(frozen=True)
class Llama3Scaling(RotaryScaling):
    """Short wavelengths stay, long ones are stretched, with a smooth passage in between.

    Args:
        factor: by how much the long wavelengths are stretched.
        original_length: length that the model was trained on.
        low_frequency_factor: wavelengths above the length divided by this are stretched whole.
        high_frequency_factor: wavelengths below the length divided by this stay.

    Source: Llama Team 2024, section 3.4.2, and the code of Llama 3.1.
    """

    factor: float
    original_length: int
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0

    def __post_init__(self) -> None:
        check_count("original_length", self.original_length)
        for name in ("factor", "low_frequency_factor", "high_frequency_factor"):
            check_positive(name, getattr(self, name))
        if self.high_frequency_factor <= self.low_frequency_factor:
            raise ValueError(
                "`high_frequency_factor` must be larger than `low_frequency_factor`, got "
                f"{self.high_frequency_factor!r} and {self.low_frequency_factor!r}"
            )

    def frequencies(self, dim: int, max_wavelength: float) -> np.ndarray:
        """See `RotaryScaling`."""
        plain = rotary_frequencies(dim, max_wavelength)
        turns = self.original_length * plain / (2 * math.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        kept = np.clip((turns - low) / (high - low), 0, 1)
        return plain * kept + plain / self.factor * (1 - kept)


def rotary_frequencies(
    dim: int, max_wavelength: float, scaling: float | RotaryScaling = 1.0
) -> np.ndarray:
    """The angle `w^(-2i/Hr)` that each pair of columns turns at a position, float64 `[Hr / 2]`."""
    if isinstance(scaling, RotaryScaling):
        return scaling.frequencies(dim, max_wavelength)
    return np.power(float(max_wavelength), -np.arange(0, dim, 2) / dim) / scaling


def rotary_angles(
    positions: Tensor,
    dim: int,
    max_wavelength: float = 10_000.0,
    scaling: float | RotaryScaling = 1.0,
    dtype: str = "float32",
) -> Tensor:
    """Position times frequency for each pair of columns, `[..., Hr / 2]` in `dtype`.

    A scaling that is a number divides the positions, at a precision that is theirs.
    """
    divisor, scaling = (1.0, scaling) if isinstance(scaling, RotaryScaling) else (scaling, 1.0)
    frequencies = rotary_frequencies(dim, max_wavelength, scaling).astype(dtype)
    return (ops.cast(positions, dtype) / divisor)[..., None] * ops.convert_to_tensor(frequencies)


def rotate(inputs: Tensor, angle: Tensor, magnitude: float = 1.0) -> Tensor:
    """Rotate column `i` against column `i + Hr/2` by `angle`; columns from Hr on stay as they are.

    Args:
        inputs: float `[B, T, N, H]`.
        angle: float `[T, Hr / 2]` or `[B, T, Hr / 2]`, from `rotary_angles`.
        magnitude: what the rotated columns are multiplied by, from a `RotaryScaling`.

    Returns:
        `[B, T, N, H]` in the inputs' dtype; the rotation itself runs in float32, or in
        float64 for such inputs.

    Source: Su et al. 2021, section 3.4.2.
    """
    half = angle.shape[-1]
    x = widen(inputs)
    angle = ops.cast(angle, x.dtype)
    cos, sin = ops.cos(angle)[..., None, :], ops.sin(angle)[..., None, :]  # [..., T, N=1, Hr / 2]
    if magnitude != 1.0:
        cos, sin = cos * magnitude, sin * magnitude
    first, second, rest = x[..., :half], x[..., half : 2 * half], inputs[..., 2 * half :]
    turned = ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return ops.concatenate([ops.cast(turned, inputs.dtype), rest], axis=-1)
