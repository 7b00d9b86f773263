"""Predict the next token.

Letters: B batch, T length, V vocabulary, D model width.
"""

from typing import Any

import keras

from keras_attn import ops
from keras_attn._checks import check_choice, check_positive, check_shape
from keras_attn._keras import register
from keras_attn._typing import Config, Shape, Tensor
from keras_attn.layers.sublayers import NORMS, CompositeLayer, make_norm


@register()
class LanguageModelHead(CompositeLayer):
    """`norm(x) M^T + c`, with M the token embeddings; norm and c are optional.

    Args:
        norm: "layer", "layer_no_bias" or "rms", for a decoder with pre-norm blocks; None for no
            norm.
        layer_norm_epsilon: added to the variance.
        use_bias: whether there is a bias for each token.

    Call arguments:
        inputs: float `[..., D]`, the decoder's output.
        embedding_matrix: float `[V, D]`, the token embeddings, which the output shares.

    Masking: no mask is propagated; use weights in the loss instead.

    Returns:
        logits `[..., V]`.

    Raises:
        ValueError: an unknown norm, or an embedding matrix of another rank or width.

    Source: Press and Wolf 2017; Vaswani et al. 2017, section 3.4.

    Example:
    >>> import keras
    >>> LanguageModelHead()(keras.ops.ones((2, 5, 4)), keras.ops.ones((11, 4))).shape
    TensorShape([2, 5, 11])
    """

    def __init__(
        self,
        norm: str | None = None,
        layer_norm_epsilon: float = 1e-5,
        use_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if norm is not None:
            check_choice("norm", norm, NORMS)
        self.norm = norm
        check_positive("layer_norm_epsilon", layer_norm_epsilon)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.use_bias = use_bias
        self.supports_masking = True

    def build(self, inputs_shape: Shape, embedding_matrix_shape: Shape) -> None:
        """Create the norm and the bias."""
        width = inputs_shape[-1]
        check_shape("embedding_matrix", embedding_matrix_shape, vocabulary=None, width=width)
        self.norm_layer = None
        if self.norm is not None:
            self.norm_layer = make_norm(
                self.norm, self.layer_norm_epsilon, dtype=self.dtype_policy, name="norm"
            )
            self.norm_layer.build(inputs_shape)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                shape=(embedding_matrix_shape[0],), initializer="zeros", name="bias"
            )

    def call(self, inputs: Tensor, embedding_matrix: Tensor) -> Tensor:
        """Predict the token after each position."""
        return ops.dense(self.hidden(inputs), keras.ops.transpose(embedding_matrix), self.bias)

    def hidden(self, inputs: Tensor) -> Tensor:
        """The vectors that are multiplied by the embeddings, `[..., D]`."""
        return inputs if self.norm_layer is None else self.norm_layer(inputs)

    def compute_output_shape(self, inputs_shape: Shape, embedding_matrix_shape: Shape) -> Shape:
        """Shape of the logits."""
        return (*inputs_shape[:-1], embedding_matrix_shape[0])

    def compute_mask(self, *_: Any, **__: Any) -> None:
        """None: the sequence's mask does not apply to the predictions."""

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "norm": self.norm,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "use_bias": self.use_bias,
        }
