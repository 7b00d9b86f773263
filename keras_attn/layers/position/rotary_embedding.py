"""Relative positions by rotating queries and keys.

Letters: B batch, T length, N heads, H head width.
"""

import warnings
from typing import Any

import keras

from keras_attn._checks import check_positive, check_shape, renamed, to_integers
from keras_attn._keras import register
from keras_attn._typing import Config, Shape, Size, Tensor
from keras_attn.ops.numerics import wide
from keras_attn.ops.positions import RotaryScaling, rotary_angles, rotate


@register()
class RotaryEmbedding(keras.layers.Layer):
    """Rotate pairs of columns of each query and key by an angle that grows with the position.

    The product of a query and a key then depends on their distance alone. Give it to an attention
    layer or a block as `position`; called by itself it rotates its input.

    Args:
        max_wavelength: wavelength of the slowest pair of columns.
        rotary_fraction: fraction of the head width that is rotated, in (0, 1].
        scaling: positions are divided by it, to stretch a trained model to longer inputs; or an
            `NtkScaling`, `YarnScaling` or `Llama3Scaling` of `keras_attn.ops`.

    Call arguments:
        inputs: float `[B, T, N, H]`.
        offset: int or scalar tensor, position of the first input (decoding with a cache).
        positions: int `[T]` or `[B, T]`, such as those of packed sequences or after padding on the
            left; defaults to 0, 1, 2 and so on. The offset is added to them.

    Returns:
        `[B, T, N, H]`.

    Raises:
        ValueError: a fraction outside (0, 1], a scaling that is not positive, a rotated width that
            is odd, or positions of another shape.

    Source: Su et al. 2021, section 3.4.2; scaling by a number: Chen et al. 2023.

    Example:
    >>> import keras
    >>> from keras_attn.layers import MultiHeadSelfAttention
    >>> MultiHeadSelfAttention(2, position=RotaryEmbedding())(keras.ops.ones((3, 5, 8))).shape
    TensorShape([3, 5, 8])
    """

    def __init__(
        self,
        max_wavelength: float = 10_000.0,
        rotary_fraction: float = 1.0,
        scaling: float | RotaryScaling = 1.0,
        **kwargs: Any,
    ) -> None:
        rotary_fraction = renamed(kwargs, "share", "rotary_fraction", rotary_fraction)
        super().__init__(**kwargs)
        if not 0 < rotary_fraction <= 1:
            raise ValueError(f"`rotary_fraction` must be in (0, 1], got {rotary_fraction!r}")
        if isinstance(scaling, dict):
            scaling = keras.saving.deserialize_keras_object(scaling)
        if not isinstance(scaling, RotaryScaling):
            check_positive("scaling", scaling)
        check_positive("max_wavelength", max_wavelength)
        self.max_wavelength = max_wavelength
        self.rotary_fraction = rotary_fraction
        self.scaling = scaling

    @classmethod
    def from_config(cls, config: Config) -> "RotaryEmbedding":
        """The layer of a configuration; version 0.1.0 wrote `share` for `rotary_fraction`."""
        names = {"share": "rotary_fraction"}
        return super().from_config({names.get(key, key): value for key, value in config.items()})

    @property
    def share(self) -> float:
        """The earlier name of `rotary_fraction`; deprecated."""
        warnings.warn(
            "`share` is deprecated: use `rotary_fraction`", DeprecationWarning, stacklevel=2
        )
        return self.rotary_fraction

    def build(self, input_shape: Shape) -> None:
        """Check that the rotated part of the width `[..., H]` has pairs of columns."""
        self._rotated(input_shape[-1])
        self.built = True

    def call(self, inputs: Tensor, offset: Size = 0, positions: Tensor | None = None) -> Tensor:
        """Rotate `inputs` by the angles of their positions."""
        return self.rotate(inputs, offset, positions)

    def rotate(self, inputs: Tensor, offset: Size = 0, positions: Tensor | None = None) -> Tensor:
        """Rotate queries or keys `[B, T, N, H]`, at `positions` from `offset` on."""
        width = self._rotated(inputs.shape[-1])
        batch, length, *_ = inputs.shape
        if positions is None:
            positions = keras.ops.arange(keras.ops.shape(inputs)[1], dtype="int32")
        else:
            positions = to_integers("positions", positions)
            axes = {"length": length} if len(positions.shape) == 1 else {"batch": batch}
            check_shape("positions", positions.shape, **axes | {"length": length})
        dtype = wide(inputs.dtype)
        positions = positions + to_integers("offset", offset)
        angles = rotary_angles(positions, width, self.max_wavelength, self.scaling, dtype)
        return rotate(inputs, angles, getattr(self.scaling, "magnitude", 1.0))

    def _rotated(self, head_width: int) -> int:
        width = int(head_width * self.rotary_fraction)
        if width % 2:
            raise ValueError(
                f"the rotated width must be even, got {width} of head width {head_width}"
            )
        return width

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The inputs' shape."""
        return tuple(input_shape)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "max_wavelength": self.max_wavelength,
            "rotary_fraction": self.rotary_fraction,
            "scaling": keras.saving.serialize_keras_object(self.scaling),
        }
