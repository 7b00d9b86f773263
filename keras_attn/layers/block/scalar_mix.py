"""A weighted mean of the hidden states of an encoder.

Letters: M layers, B batch, T length, D model width.
"""

from typing import Any

import keras

from keras_attn._checks import check_positive
from keras_attn._keras import register
from keras_attn._typing import Config, Shape, Tensor
from keras_attn.ops.numerics import softmax, wide


@register()
class ScalarMix(keras.layers.Layer):
    """`gamma sum_l softmax(w)_l h_l`: a learned weighted mean of hidden states, scaled.

    Initially all layers have equal weights and gamma is 1.

    Args:
        normalize: whether each `h_l` is first layer-normalized over D, without weights, so that
            layers of different scale start equal.
        layer_norm_epsilon: added to the variance in that normalization.

    Call arguments:
        inputs: a list of M floats `[B, T, D]`, such as the `hidden_states` of an encoder.

    Masking: positions are mixed independently; the inputs' mask is propagated to the output.

    Returns:
        `[B, T, D]`.

    Raises:
        ValueError: inputs that are not a list, or are empty or of unequal shapes.

    Source: Peters et al. 2018, section 3.2, equation 1.

    Example:
    >>> import keras
    >>> mixed = ScalarMix()([keras.ops.ones((1, 1, 2)), 3 * keras.ops.ones((1, 1, 2))])
    >>> keras.ops.convert_to_numpy(mixed).tolist()
    [[[2.0, 2.0]]]
    """

    def __init__(
        self, normalize: bool = False, layer_norm_epsilon: float = 1e-12, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.normalize = normalize
        check_positive("layer_norm_epsilon", layer_norm_epsilon)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.supports_masking = True

    def build(self, input_shape: list[Shape]) -> None:
        """Create a weight for each layer, and gamma."""
        if not input_shape or not isinstance(input_shape[0], list | tuple):
            raise ValueError(
                "`inputs` must be a list of tensors [batch, length, width], "
                f"got shape {tuple(input_shape)}"
            )
        if len({tuple(shape) for shape in input_shape}) > 1:
            raise ValueError(
                "`inputs` must all have the same shape, got "
                f"{', '.join(str(tuple(shape)) for shape in input_shape)}"
            )
        self.scalars = self.add_weight(
            shape=(len(input_shape),), initializer="zeros", name="scalars"
        )
        self.gamma = self.add_weight(shape=(), initializer="ones", name="gamma")

    def call(self, inputs: list) -> Tensor:
        """Mix `inputs`."""
        weights = self.gamma * softmax(self.scalars)  # [M]
        total = 0.0
        for layer, states in enumerate(inputs):
            if self.normalize:
                states = self._normalized(states)
            total = total + weights[layer] * states
        return total  # [B, T, D]

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        """The shape of one layer."""
        return tuple(input_shape[0])

    def compute_mask(self, inputs: list, previous_mask: list | None = None) -> Tensor | None:
        """The mask of the first layer; all have the same."""
        return previous_mask[0] if previous_mask else None

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "normalize": self.normalize,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }

    def _normalized(self, states: Tensor) -> Tensor:
        dtype = wide(states.dtype)
        precise = keras.ops.cast(states, dtype)  # the epsilon would be zero in float16
        mean, variance = keras.ops.moments(precise, axes=-1, keepdims=True)
        normalized = (precise - mean) * keras.ops.rsqrt(variance + self.layer_norm_epsilon)
        return keras.ops.cast(normalized, states.dtype)
