"""BERT's input: token, segment and position embeddings, summed and normalized.

Letters: B batch, T length, V vocabulary, D model width.
"""

from typing import Any

import keras
from keras import ops

from keras_attn._checks import (
    check_count,
    check_id,
    check_ids,
    check_positive,
    check_rate,
    to_integers,
)
from keras_attn._keras import deserialize_shared, register, serialize_shared
from keras_attn._typing import Config, Initializer, Nested, Shape, Tensor
from keras_attn.layers.embedding.token_embedding import TokenEmbedding
from keras_attn.layers.position.learned_position_embedding import LearnedPositionEmbedding


@register()
class BertEmbedding(keras.layers.Layer):
    """`dropout(norm(token + segment + position))`, the sum of three learned vectors.

    Args:
        vocabulary_size: V.
        dim: D.
        max_length: the longest sequence with learned positions; 0 for no position table, in an
            encoder whose blocks have their own positions.
        num_segments: the number of segments, 2 for BERT's A and B; 0 for no segment table: segment
            ids are then ignored.
        mask_zero: whether id 0 is padding, which gives a Keras mask.
        dropout: fraction of the output that is zeroed in training, in [0, 1).
        layer_norm_epsilon: added to the variance.
        initializer: initializer of the three tables.
        seed: seed of the dropout; defaults to a random one.
        position: the layer that adds the positions, such as a `SinusoidalPositionEncoding`;
            defaults to a `LearnedPositionEmbedding`.
        use_bias: whether the norm has a bias.
        padding_id: RoBERTa's positions: only tokens other than this id are counted, from row
            padding_id + 1 of the table, and this id has row padding_id; None to count all columns.

    Call arguments:
        token_ids: int `[B, T]`, in [0, V). Eager values out of range raise; compiled code
            clips them.
        segment_ids: int `[B, T]`, in [0, num_segments), checked likewise; defaults to all 0.
        positions: int `[B, T]`, such as those of packed sequences; defaults to 0, 1, 2 and so on.
            With `padding_id` they must start at 0 with each sequence: its tokens are counted.
        return_matrix: whether to return the token matrix too, for a head that shares it.
        training: whether to apply dropout.

    Masking: with `mask_zero`, the mask is False at padding. Segments mask nothing.

    Returns:
        `[B, T, D]`; with `return_matrix` also the matrix `[V, D]`.

    Raises:
        ValueError: eager ids out of range, a sequence longer than `max_length` (where compiled code
            does not know the length, the last row is repeated), dropout outside [0, 1),
            `padding_id` without a table of learned positions.

    Source: Devlin et al. 2019, section 3 and figure 2; without positions and biases: Warner et al.
    2024, section 2.1; `padding_id`: the code of Liu et al. 2019 (fairseq, make_positions).

    Example:
    >>> import numpy as np
    >>> layer = BertEmbedding(vocabulary_size=11, dim=4, max_length=8)
    >>> layer(np.array([[1, 2, 3]]), segment_ids=np.array([[0, 0, 1]])).shape
    TensorShape([1, 3, 4])
    """

    def __init__(
        self,
        vocabulary_size: int,
        dim: int,
        max_length: int = 512,
        num_segments: int = 2,
        mask_zero: bool = False,
        dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-12,
        initializer: Initializer = "uniform",
        seed: int | None = None,
        position: keras.layers.Layer | None = None,
        use_bias: bool = True,
        padding_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_rate("dropout", dropout)
        self.vocabulary_size = check_count("vocabulary_size", vocabulary_size)
        self.dim = check_count("dim", dim)
        self.max_length = check_count("max_length", max_length) if max_length != 0 else 0
        self.num_segments = check_count("num_segments", num_segments) if num_segments != 0 else 0
        self.mask_zero = mask_zero
        self.dropout = dropout
        check_positive("layer_norm_epsilon", layer_norm_epsilon)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer = keras.initializers.get(initializer)
        self.seed = seed
        self.use_bias = use_bias
        self.padding_id = padding_id
        if padding_id is not None:
            self.padding_id = check_id("padding_id", padding_id, vocabulary_size)
            if position is not None or not max_length:
                raise ValueError(
                    "`padding_id` must be None without a table of learned positions, "
                    f"got {padding_id!r}"
                )
        self.supports_masking = True
        self.autocast = False  # ids must not be rounded
        self.token_embedding = TokenEmbedding(
            vocabulary_size,
            dim,
            mask_zero=mask_zero,
            embeddings_initializer=self.initializer.clone(),
            dtype=self.dtype_policy,
            name="token",
        )
        self.segment_embedding = None
        if num_segments:
            self.segment_embedding = TokenEmbedding(
                num_segments,
                dim,
                embeddings_initializer=self.initializer.clone(),
                dtype=self.dtype_policy,
                name="segment",
            )
        self.position = position = deserialize_shared(position)
        self.position_embedding = position
        if position is None and max_length:
            unread = 0 if padding_id is None else padding_id + 1
            self.position_embedding = LearnedPositionEmbedding(
                unread + max_length,
                initializer=self.initializer.clone(),
                dtype=self.dtype_policy,
                name="position",
            )
        self.norm = keras.layers.LayerNormalization(
            epsilon=layer_norm_epsilon, center=use_bias, dtype=self.dtype_policy, name="norm"
        )
        self.dropout_layer = keras.layers.Dropout(
            dropout, seed=seed, dtype=self.dtype_policy, name="dropout"
        )

    def build(self, token_ids_shape: Shape, **_: Any) -> None:
        """Create the three tables and the norm."""
        shape = (*token_ids_shape, self.dim)
        self.token_embedding.build()
        if self.segment_embedding:
            self.segment_embedding.build()
        if self.position_embedding and not self.position_embedding.built:
            self.position_embedding.build(shape)
        self.norm.build(shape)

    def call(
        self,
        token_ids: Tensor,
        segment_ids: Tensor | None = None,
        positions: Tensor | None = None,
        return_matrix: bool = False,
        training: bool | None = None,
    ) -> Nested:
        """Embed `token_ids`."""
        vectors, matrix = self.token_embedding(token_ids, return_matrix=True)
        if self.segment_embedding:
            if segment_ids is None:
                segment_ids = ops.zeros_like(token_ids)
            rows = check_ids("segment_ids", segment_ids, self.num_segments)
            vectors = vectors + self.segment_embedding(rows)
        if self.padding_id is not None:
            positions = self._token_positions(token_ids, self.padding_id, positions)
        if self.position_embedding:
            vectors = self.position_embedding(vectors, positions=positions)
        vectors = self.dropout_layer(self.norm(vectors), training=training)
        return (vectors, matrix) if return_matrix else vectors

    def _token_positions(
        self, token_ids: Tensor, padding_id: int, positions: Tensor | None
    ) -> Tensor:
        """The row `[B, T]` of the position table for each token, as RoBERTa counts."""
        length = token_ids.shape[1]
        if positions is None and isinstance(length, int) and length > self.max_length:
            raise ValueError(
                f"`token_ids` must not be longer than `max_length` {self.max_length}, got {length}"
            )
        is_token = ops.cast(ops.not_equal(token_ids, padding_id), "int32")
        count = ops.cumsum(is_token, axis=1, dtype="int32")
        if positions is not None:  # packed: without the tokens of the sequences before it
            columns = ops.arange(ops.shape(token_ids)[1], dtype="int32")
            starts = ops.maximum(columns - to_integers("positions", positions), 0)
            count = count - ops.take_along_axis(count - is_token, starts, axis=1)
        return count * is_token + padding_id

    def compute_output_shape(self, token_ids_shape: Shape) -> Shape:
        """Shape of the vectors."""
        return (*token_ids_shape, self.dim)

    def compute_output_spec(
        self, token_ids: Tensor, *_: Any, return_matrix: bool = False, **__: Any
    ) -> Nested:
        """`[B, T, D]`, and `[V, D]` if the matrix is asked for."""
        vectors = keras.KerasTensor((*token_ids.shape, self.dim), self.compute_dtype)
        matrix = keras.KerasTensor((self.vocabulary_size, self.dim), self.compute_dtype)
        return (vectors, matrix) if return_matrix else vectors

    def compute_mask(self, token_ids: Tensor, previous_mask: Nested | None = None) -> Tensor | None:
        """False at padding."""
        return self.token_embedding.compute_mask(token_ids)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "dim": self.dim,
            "max_length": self.max_length,
            "num_segments": self.num_segments,
            "mask_zero": self.mask_zero,
            "dropout": self.dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "initializer": keras.initializers.serialize(self.initializer),
            "seed": self.seed,
            "position": serialize_shared(self.position),
            "use_bias": self.use_bias,
            "padding_id": self.padding_id,
        }
