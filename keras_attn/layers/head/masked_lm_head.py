"""Predict the token at masked positions.

Letters: B batch, T length, P masked positions, V vocabulary, D model width, E embedding width.
"""

from typing import Any

import keras

from keras_attn import ops
from keras_attn._checks import check_not_empty, check_positive, check_shape
from keras_attn._keras import register
from keras_attn._typing import Activation, Config, Initializer, Shape, Tensor
from keras_attn.layers.sublayers import CompositeLayer, Projection
from keras_attn.ops.numerics import get_activation


@register()
class MaskedLMHead(CompositeLayer):
    """`norm(activation(x W + b)) M^T + c` at masked positions, with M the token embeddings.

    Args:
        activation: after the first product, a name of Keras, "gelu_tanh", or a function.
        layer_norm_epsilon: added to the variance.
        kernel_initializer: initializer of W.
        use_bias: whether the first product and the norm have a bias; c always exists.

    Call arguments:
        inputs: float `[B, T, D]`, the encoder's output.
        embedding_matrix: float `[V, E]`, the token embeddings, which the output shares.
        masked_positions: int `[B, P]`, where to predict; defaults to every position. A position
            outside the row is clipped to the nearest inside.

    Masking: no mask is propagated; use weights in the loss instead.

    Returns:
        logits `[B, P, V]`, or `[B, T, V]` without `masked_positions`.

    Raises:
        ValueError: an embedding matrix of the wrong rank; positions of another shape, or in a
            row of length 0.

    Source: Devlin et al. 2019, section 3.1, task 1; without biases: Warner et al. 2024,
    section 2.1.

    Example:
    >>> import keras
    >>> head, inputs, matrix = MaskedLMHead(), keras.ops.ones((2, 5, 4)), keras.ops.ones((11, 4))
    >>> head(inputs, matrix, masked_positions=keras.ops.ones((2, 3), "int32")).shape
    TensorShape([2, 3, 11])
    """

    def __init__(
        self,
        activation: Activation = "gelu",
        layer_norm_epsilon: float = 1e-12,
        kernel_initializer: Initializer = "glorot_uniform",
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.activation = get_activation(activation)
        check_positive("layer_norm_epsilon", layer_norm_epsilon)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.use_bias = use_bias
        self.supports_masking = True

    def build(self, inputs_shape: Shape, embedding_matrix_shape: Shape, **_: Any) -> None:
        """Create the transformation and the output bias."""
        check_shape("embedding_matrix", embedding_matrix_shape, vocabulary=None, width=None)
        vocabulary_size, width = embedding_matrix_shape
        self.transformation = Projection(
            width,
            activation=self.activation,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name="transformation",
        )
        self.transformation.build(inputs_shape)
        self.norm = keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon,
            center=self.use_bias,
            dtype=self.dtype_policy,
            name="norm",
        )
        self.norm.build((*inputs_shape[:-1], width))
        self.bias = self.add_weight(shape=(vocabulary_size,), initializer="zeros", name="bias")

    def call(
        self, inputs: Tensor, embedding_matrix: Tensor, masked_positions: Tensor | None = None
    ) -> Tensor:
        """Predict the tokens at `masked_positions`."""
        hidden = self.hidden(inputs, masked_positions)
        return ops.dense(hidden, keras.ops.transpose(embedding_matrix), self.bias)

    def hidden(self, inputs: Tensor, masked_positions: Tensor | None = None) -> Tensor:
        """The vectors that are multiplied by the embeddings, `[B, P, E]` or `[B, T, E]`."""
        if masked_positions is not None:
            inputs = gather(inputs, masked_positions)
        return self.norm(self.transformation(inputs))

    def compute_output_shape(
        self,
        inputs_shape: Shape,
        embedding_matrix_shape: Shape,
        masked_positions_shape: Shape | None = None,
    ) -> Shape:
        """Shape of the logits."""
        return (*(masked_positions_shape or inputs_shape[:-1]), embedding_matrix_shape[0])

    def compute_mask(self, *_: Any, **__: Any) -> None:
        """None: the sequence's mask does not apply to the predictions."""

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "activation": keras.activations.serialize(self.activation),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "use_bias": self.use_bias,
        }


def gather(inputs: Tensor, positions: Tensor) -> Tensor:
    """The rows of `inputs` `[B, T, D]` at `positions` `[B, P]`, as `[B, P, D]`."""
    check_not_empty("inputs", inputs.shape)
    batch, length, width = keras.ops.shape(inputs)
    rows = keras.ops.clip(keras.ops.cast(positions, "int32"), 0, length - 1)
    check_shape("masked_positions", rows.shape, batch=inputs.shape[0], positions=None)
    rows = rows + keras.ops.arange(batch, dtype="int32")[:, None] * length
    return keras.ops.take(keras.ops.reshape(inputs, (-1, width)), rows, axis=0)
