"""The position-wise feed-forward network.

Letters: B batch, T length, D model width, F feed-forward width.
"""

from typing import Any

import keras

from keras_attn._checks import check_count, check_rate
from keras_attn._keras import register
from keras_attn._typing import Activation, Config, Initializer, Shape, Tensor
from keras_attn.layers.sublayers import CompositeLayer, Projection
from keras_attn.ops.numerics import get_activation


@register()
class FeedForward(CompositeLayer):
    """`activation(x W1 + b1) W2 + b2`, the same at every position.

    With `gated` it is `(activation(x V + c) * (x W1 + b1)) W2 + b2`: GeGLU with "gelu", SwiGLU with
    "silu".

    Args:
        intermediate_dim: F.
        activation: between the two products, a name of Keras, "gelu_tanh", or a function.
        dropout: fraction of the hidden units that is zeroed in training, in [0, 1).
        kernel_initializer: initializer of the two matrices.
        seed: seed of the dropout; defaults to a random one.
        gated: whether the activation of one product gates another.
        use_bias: whether the projections have a bias.

    Call arguments:
        inputs: float `[..., D]`.
        training: whether to apply dropout.

    Masking: the inputs' mask is propagated to the output.

    Returns:
        `[..., D]`.

    Raises:
        ValueError: `intermediate_dim` is not positive, or dropout outside [0, 1).

    Source: Vaswani et al. 2017, section 3.3; gated: Shazeer 2020, section 2.

    Example:
    >>> import keras
    >>> FeedForward(8, activation="relu")(keras.ops.ones((2, 3, 4))).shape
    TensorShape([2, 3, 4])
    """

    def __init__(
        self,
        intermediate_dim: int,
        activation: Activation = "gelu",
        dropout: float = 0.0,
        kernel_initializer: Initializer = "glorot_uniform",
        seed: int | None = None,
        gated: bool = False,
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_rate("dropout", dropout)
        self.intermediate_dim = check_count("intermediate_dim", intermediate_dim)
        self.activation = get_activation(activation)
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = seed
        self.gated = gated
        self.use_bias = use_bias
        self.supports_masking = True
        self.dropout_layer = keras.layers.Dropout(
            dropout, seed=seed, dtype=self.dtype_policy, name="dropout"
        )

    def build(self, input_shape: Shape) -> None:
        """Create the two projections, or three."""
        width, hidden, activation = input_shape[-1], self.intermediate_dim, self.activation
        if self.gated:
            self.gate_projection = self._project("gate", hidden, width, activation=activation)
            activation = None  # the gate has it
        self.hidden_projection = self._project("hidden", hidden, width, activation=activation)
        self.output_projection = self._project("output", width, hidden)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Transform each position of `inputs`."""
        hidden = self.hidden_projection(inputs)
        if self.gated:
            hidden = self.gate_projection(inputs) * hidden
        return self.output_projection(self.dropout_layer(hidden, training=training))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The inputs' shape."""
        return tuple(input_shape)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
            "gated": self.gated,
            "use_bias": self.use_bias,
        }

    def _project(self, name: str, units: int, width: int, **kwargs: Any) -> Projection:
        layer = Projection(
            units,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
            **kwargs,
        )
        layer.build((None, width))
        return layer
