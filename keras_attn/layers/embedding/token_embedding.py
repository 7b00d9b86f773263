"""Token ids to vectors, with a matrix that the output can share.

Letters: B batch, T length, V vocabulary, D model width.
"""

from typing import Any

import keras

from keras_attn._checks import check_count, check_ids
from keras_attn._keras import register
from keras_attn._typing import Config, Constraint, Initializer, Nested, Regularizer, Shape, Tensor
from keras_attn.ops.numerics import table_rows


@register()
class TokenEmbedding(keras.layers.Layer):
    """Look up a vector for each token id.

    To tie the output weights to it, use `return_matrix=True` and pass the matrix to a head: the two
    stay one weight, also after the model was saved and loaded.

    Args:
        input_dim: V.
        output_dim: D.
        embeddings_initializer: initializer of the matrix.
        embeddings_regularizer: regularizer of the matrix, or None.
        embeddings_constraint: constraint of the matrix, or None.
        mask_zero: whether id 0 is padding, which gives a Keras mask.
        scale: factor of the vectors, such as sqrt(D) in the Transformer (section 3.4). The others
            are those of `keras.layers.Embedding`.

    Call arguments:
        token_ids: int `[B, T]`, in [0, V). Eager values out of range raise; compiled code
            clips them.
        return_matrix: whether to return the matrix too.

    Masking: with `mask_zero`, the mask is False at padding.

    Returns:
        `[B, T, D]` in the compute dtype; with `return_matrix` also the matrix `[V, D]`, unscaled.

    Raises:
        ValueError: eager ids outside [0, V), or a size that is not positive.

    Source: Vaswani et al. 2017, section 3.4; Press and Wolf 2017 (tied weights).

    Example:
    >>> import numpy as np
    >>> vectors, matrix = TokenEmbedding(11, 3)(np.array([[1, 2]]), return_matrix=True)
    >>> vectors.shape, matrix.shape
    (TensorShape([1, 2, 3]), TensorShape([11, 3]))
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Initializer = "uniform",
        embeddings_regularizer: Regularizer = None,
        embeddings_constraint: Constraint = None,
        mask_zero: bool = False,
        *,
        scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_dim = check_count("input_dim", input_dim)
        self.output_dim = check_count("output_dim", output_dim)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = keras.constraints.get(embeddings_constraint)
        self.mask_zero = mask_zero
        self.scale = scale
        self.supports_masking = True
        self.autocast = False  # ids must not be rounded

    def build(self, input_shape: Shape | None = None) -> None:
        """Create the matrix."""
        self.embeddings = self.add_weight(
            shape=(self.input_dim, self.output_dim),
            initializer=self.embeddings_initializer,
            regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint,
            autocast=False,
            name="embeddings",
        )
        self.built = True

    def call(self, token_ids: Tensor, return_matrix: bool = False) -> Nested:
        """Look up `token_ids`."""
        rows = check_ids("token_ids", token_ids, self.input_dim)
        vectors = table_rows(self.embeddings, rows, self.compute_dtype)
        if self.scale != 1.0:
            vectors = vectors * self.scale
        if not return_matrix:
            return vectors
        return vectors, keras.ops.cast(self.embeddings, self.compute_dtype)

    def compute_output_shape(self, token_ids_shape: Shape) -> Shape:
        """Shape of the vectors."""
        return (*token_ids_shape, self.output_dim)

    def compute_output_spec(self, token_ids: Tensor, return_matrix: bool = False) -> Nested:
        """Symbolic vectors, and the matrix if it is asked for."""
        vectors = keras.KerasTensor(self.compute_output_shape(token_ids.shape), self.compute_dtype)
        matrix = keras.KerasTensor((self.input_dim, self.output_dim), self.compute_dtype)
        return (vectors, matrix) if return_matrix else vectors

    def compute_mask(self, token_ids: Tensor, previous_mask: Nested | None = None) -> Tensor | None:
        """False at padding."""
        return keras.ops.not_equal(token_ids, 0) if self.mask_zero else None

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
            "embeddings_constraint": keras.constraints.serialize(self.embeddings_constraint),
            "mask_zero": self.mask_zero,
            "scale": self.scale,
        }
