"""Positions as sines and cosines.

Letters: B batch, T length, D model width.
"""

from typing import Any

import keras

from keras_attn._checks import check_choice, check_positive, optional_count
from keras_attn._keras import register
from keras_attn._typing import Config, Shape, Size, Tensor
from keras_attn.ops.numerics import wide
from keras_attn.ops.positions import sinusoids

COMBINATIONS = ("add", "concatenate")


@register()
class SinusoidalPositionEncoding(keras.layers.Layer):
    """Add to each position a vector of sines and cosines of growing wavelength.

    `PE(pos, 2i) = sin(pos / w^(2i/D))`, `PE(pos, 2i+1) = cos(pos / w^(2i/D))`. It has no weights
    and no maximum length.

    Args:
        max_wavelength: w; the wavelengths run from 2 pi to 2 pi w.
        combination: "add", or "concatenate" to give `[B, T, D + dim]`.
        dim: width of the encoding where it is concatenated; defaults to the inputs' width.

    Call arguments:
        inputs: float `[B, T, D]`.
        positions: int `[B, T]` or `[T]`, such as those of packed sequences; defaults to 0, 1, 2 and
            so on.
        offset: int or scalar tensor, added to the positions (decoding with a cache).

    Masking: the inputs' mask is propagated to the output.

    Returns:
        `[B, T, D]`, or wider if concatenated, in the compute dtype; the encoding is computed in
        float32.

    Raises:
        ValueError: an odd width, an unknown combination, or `dim` with "add".

    Source: Vaswani et al. 2017, section 3.5.

    Example:
    >>> import keras
    >>> encoded = SinusoidalPositionEncoding()(keras.ops.zeros((1, 2, 4)))
    >>> keras.ops.convert_to_numpy(encoded[0]).round(2).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.8399999737739563, 0.5400000214576721, 0.009999999776482582, 1.0]]
    """

    def __init__(
        self,
        max_wavelength: float = 10_000.0,
        combination: str = "add",
        dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_combination(combination, dim)
        check_positive("max_wavelength", max_wavelength)
        self.max_wavelength = max_wavelength
        self.combination = combination
        self.dim = optional_count("dim", dim)
        self.supports_masking = True

    def call(self, inputs: Tensor, positions: Tensor | None = None, offset: Size = 0) -> Tensor:
        """Encode the positions of `inputs`."""
        if positions is None:
            positions = keras.ops.arange(keras.ops.shape(inputs)[1], dtype="int32")
        dim, dtype = self.dim or inputs.shape[-1], wide(inputs.dtype)
        # Integers of two types have no sum on TensorFlow, and those of 8 bits a wrong one.
        positions = keras.ops.cast(positions, dtype) + keras.ops.cast(offset, dtype)
        encoding = sinusoids(positions, dim, self.max_wavelength, dtype)
        return combine(self.combination, inputs, encoding)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The inputs' shape, wider if concatenated."""
        return combined_width(self.combination, input_shape, self.dim)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "max_wavelength": self.max_wavelength,
            "combination": self.combination,
            "dim": self.dim,
        }


def check_combination(combination: str, dim: int | None) -> None:
    """Raise unless the combination is known and `dim` is allowed with it."""
    check_choice("combination", combination, COMBINATIONS)
    if combination == "add" and dim is not None:
        raise ValueError(f"`dim` must be None where positions are added, got {dim!r}")


def combine(combination: str, inputs: Tensor, encoding: Tensor) -> Tensor:
    """Inputs `[B, T, D]` joined with the encoding `[T, E]` or `[B, T, E]`."""
    encoding = keras.ops.cast(encoding, inputs.dtype)
    if combination == "add":
        return inputs + encoding
    batch, length, _ = keras.ops.shape(inputs)
    encoding = keras.ops.broadcast_to(encoding, (batch, length, encoding.shape[-1]))
    return keras.ops.concatenate([inputs, encoding], axis=-1)


def combined_width(combination: str, input_shape: Shape, dim: int | None) -> tuple:
    """The shape of the result of `combine`."""
    width = input_shape[-1]
    return (*input_shape[:-1], width if combination == "add" else width + (dim or width))
