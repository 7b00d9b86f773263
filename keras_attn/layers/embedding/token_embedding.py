"""Token ids to vectors, with a matrix that can serve the output too.

Letters: B batch, T length, V vocabulary, D model width.
"""

from typing import Any

import keras

from keras_attn._register import register
from keras_attn.ops.ids import check_ids


@register()
class TokenEmbedding(keras.layers.Layer):
    """Look up a vector for each token id.

    To tie the output weights to it, ask for the matrix as a tensor and give it to a head: the two
    then stay one weight, also after the model was saved and loaded.

    Args:
        vocabulary_size: V.
        dim: D.
        padding_id: the id of padding, from which a Keras mask is made; None makes none.
        scale: factor of the vectors, such as sqrt(D) in the Transformer (section 3.4).
        initializer: of the matrix.

    Call arguments:
        token_ids: int `[B, T]`, in [0, V). Eager values outside raise; compiled code takes the
            nearest valid id for them.
        return_matrix: whether to return the matrix too.

    Masking: with `padding_id`, the mask is False at padding.

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
        vocabulary_size: int,
        dim: int,
        padding_id: int | None = None,
        scale: float = 1.0,
        initializer: Any = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if vocabulary_size <= 0 or dim <= 0:
            raise ValueError(
                f"`vocabulary_size` and `dim` must be positive, got {vocabulary_size!r} and {dim!r}"
            )
        self.vocabulary_size = vocabulary_size
        self.dim = dim
        self.padding_id = padding_id
        self.scale = scale
        self.initializer = keras.initializers.get(initializer)
        self.supports_masking = True
        self.autocast = False  # ids are no numbers to round

    def build(self, input_shape: Any = None) -> None:
        """Create the matrix."""
        self.matrix = self.add_weight(
            shape=(self.vocabulary_size, self.dim), initializer=self.initializer, name="matrix"
        )
        self.built = True

    def call(self, token_ids: Any, return_matrix: bool = False) -> Any:
        """Look up `token_ids`."""
        matrix = keras.ops.cast(self.matrix, self.compute_dtype)
        rows = check_ids("token_ids", token_ids, self.vocabulary_size)
        vectors = keras.ops.take(matrix, rows, axis=0)
        if self.scale != 1.0:
            vectors = vectors * self.scale
        return (vectors, matrix) if return_matrix else vectors

    def compute_mask(self, token_ids: Any, previous_mask: Any = None) -> Any:
        """False at padding."""
        return None if self.padding_id is None else keras.ops.not_equal(token_ids, self.padding_id)

    def get_config(self) -> dict:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "dim": self.dim,
            "padding_id": self.padding_id,
            "scale": self.scale,
            "initializer": keras.initializers.serialize(self.initializer),
        }
