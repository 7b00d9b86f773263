"""Keras' own attention layer with grouped heads, computed by our kernels.

Letters: B batch, T query length, S key length, N query heads, D model width.
"""

from typing import Any

import keras

from keras_attn._checks import check_count, check_rate, optional_count
from keras_attn._keras import register
from keras_attn._typing import Constraint, Initializer, Regularizer
from keras_attn.layers.attention import drop_in


@register()
class GroupedQueryAttention(drop_in.ManyHeads, keras.layers.GroupQueryAttention):
    """`keras.layers.GroupQueryAttention` with exact attention in linear memory.

    In Keras and here the public name is `layers.GroupQueryAttention`; the class has another name,
    which `.weights.h5` files use. A drop-in replacement like `MultiHeadAttention`, with the same
    differences from Keras. Keys and values are not repeated for the query heads that share them.

    For new models, `MultiHeadSelfAttention` and `MultiHeadCrossAttention` have grouped heads too,
    with positions, a cache and packed rows.

    Args:
        head_dim: width of each head.
        num_query_heads: N; and all others up to `seed`, as in Keras.
        num_key_value_heads: divides N.
        flash_attention: as in `MultiHeadAttention`.

    Call arguments:
        query: float `[B, T, D]`.
        value: and key, query_mask, value_mask, key_mask, attention_mask, return_attention_scores,
            training, use_causal_mask, as in Keras.

    Masking: as in `MultiHeadAttention`.

    Returns:
        `[B, T, D]`; if asked for, also the weights, in the compute dtype, `[B, N, T, S]`.

    Raises:
        ValueError: what Keras rejects; dropout outside [0, 1); a mask of the wrong shape.

    Source: Ainslie et al. 2023, section 2.2.

    Example:
    >>> import keras
    >>> theirs, ours = keras.layers.GroupQueryAttention(3, 4, 2), GroupedQueryAttention(3, 4, 2)
    >>> query, value = keras.ops.ones((1, 4, 5)), keras.ops.ones((1, 3, 5))
    >>> expected, _ = theirs(query, value), ours(query, value)
    >>> ours.set_weights(theirs.get_weights())
    >>> bool(keras.ops.all(keras.ops.abs(ours(query, value) - expected) < 1e-6))
    True
    """

    def __init__(
        self,
        head_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        dropout: float = 0.0,
        use_bias: bool = True,
        sliding_window: int | None = None,
        flash_attention: bool | None = None,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        use_gate: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_rate("dropout", dropout)
        super().__init__(
            check_count("head_dim", head_dim),
            check_count("num_query_heads", num_query_heads),
            check_count("num_key_value_heads", num_key_value_heads),
            dropout=0.0,  # Keras rejects dropout with flash attention
            use_bias=use_bias,
            sliding_window=optional_count("sliding_window", sliding_window),
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            use_gate=use_gate,
            seed=seed,
            **kwargs,
        )
        self.dropout = dropout
        self.flash_attention = flash_attention
