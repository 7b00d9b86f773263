"""BERT's two pre-training tasks.

Letters: B batch, T length, P masked positions, V vocabulary, D model width, E embedding width.
"""

from typing import Any

import keras

from keras_attn._checks import check_positive
from keras_attn._keras import register
from keras_attn._typing import Activation, Config, Initializer, Shape, Tensor
from keras_attn.layers.head.masked_lm_head import MaskedLMHead
from keras_attn.layers.sublayers import CompositeLayer, Projection
from keras_attn.ops.numerics import get_activation


@register()
class NextSentenceHead(Projection):
    """`x W + b`: two logits, for "the second follows the first" (0) and "it does not" (1).

    Args:
        kernel_initializer: initializer of W.

    Call arguments:
        inputs: float `[B, D]`, the encoder's pooled output.
        training: ignored.

    Returns:
        logits `[B, 2]`.

    Raises:
        ValueError: inputs without a known width.

    Source: Devlin et al. 2019, section 3.1, task 2.

    Example:
    >>> import keras
    >>> NextSentenceHead()(keras.ops.ones((3, 4))).shape
    TensorShape([3, 2])
    """

    def __init__(self, kernel_initializer: Initializer = "glorot_uniform", **kwargs: Any) -> None:
        super().__init__(2, kernel_initializer=kernel_initializer, **kwargs)

    def get_config(self) -> Config:
        """All constructor arguments."""
        config = keras.layers.Layer.get_config(self)
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**config, "kernel_initializer": initializer}


@register()
class BertPretrainingHead(CompositeLayer):
    """A `MaskedLMHead` on the sequence and a `NextSentenceHead` on its pooled vector.

    Args:
        activation: activation of the masked-LM head, a name of Keras, "gelu_tanh", or a function.
        layer_norm_epsilon: added to the variance by the norm of the masked-LM head.
        kernel_initializer: initializer of all matrices.

    Call arguments:
        sequence_output: float `[B, T, D]`.
        pooled_output: float `[B, D]`.
        embedding_matrix: float `[V, E]`, the token embeddings, which the output shares.
        masked_positions: int `[B, P]`, where to predict; defaults to every position.

    Masking: no mask is propagated; use weights in the loss instead.

    Returns:
        a dict of logits: "masked_lm" `[B, P, V]` (`[B, T, V]` without `masked_positions`) and
        "next_sentence" `[B, 2]`, where class 0 says that the second segment follows the first.

    Raises:
        ValueError: an embedding matrix of the wrong rank.

    Source: Devlin et al. 2019, section 3.1.

    Example:
    >>> import keras
    >>> ones = keras.ops.ones
    >>> outputs = BertPretrainingHead()(ones((2, 5, 4)), ones((2, 4)), ones((11, 4)))
    >>> outputs["masked_lm"].shape, outputs["next_sentence"].shape
    (TensorShape([2, 5, 11]), TensorShape([2, 2]))
    """

    def __init__(
        self,
        activation: Activation = "gelu",
        layer_norm_epsilon: float = 1e-12,
        kernel_initializer: Initializer = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.activation = get_activation(activation)
        check_positive("layer_norm_epsilon", layer_norm_epsilon)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.supports_masking = True
        self.masked_lm = MaskedLMHead(
            activation=self.activation,
            layer_norm_epsilon=layer_norm_epsilon,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name="masked_lm",
        )
        self.next_sentence = NextSentenceHead(
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name="next_sentence",
        )

    def build(
        self,
        sequence_output_shape: Shape,
        pooled_output_shape: Shape,
        embedding_matrix_shape: Shape,
        **_: Any,
    ) -> None:
        """Build the two heads."""
        self.masked_lm.build(sequence_output_shape, embedding_matrix_shape)
        self.next_sentence.build(pooled_output_shape)

    # pyrefly: ignore[bad-override]
    def call(
        self,
        sequence_output: Tensor,
        pooled_output: Tensor,
        embedding_matrix: Tensor,
        masked_positions: Tensor | None = None,
    ) -> dict:
        """Predict masked tokens, and whether the second segment follows the first."""
        return {
            "masked_lm": self.masked_lm(
                sequence_output, embedding_matrix, masked_positions=masked_positions
            ),
            "next_sentence": self.next_sentence(pooled_output),
        }

    def compute_output_shape(
        self,
        sequence_output_shape: Shape,
        pooled_output_shape: Shape,
        embedding_matrix_shape: Shape,
        masked_positions_shape: Shape | None = None,
    ) -> dict:
        """Shapes of the logits."""
        return {
            "masked_lm": self.masked_lm.compute_output_shape(
                sequence_output_shape, embedding_matrix_shape, masked_positions_shape
            ),
            "next_sentence": self.next_sentence.compute_output_shape(pooled_output_shape),
        }

    def compute_mask(self, *_: Any, **__: Any) -> None:
        """None: the sequence's mask does not apply to the predictions."""

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "activation": keras.activations.serialize(self.activation),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
