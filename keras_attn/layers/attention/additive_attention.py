"""Keras' own additive attention, computed by our kernels.

Letters: B batch, T query length, S key length, Dq width of queries and keys, Dv width of values.
"""

from typing import Any

import keras

from keras_attn._keras import register
from keras_attn._typing import Nested
from keras_attn.layers.attention import drop_in


@register()
class AdditiveAttention(keras.layers.AdditiveAttention):
    """`keras.layers.AdditiveAttention`, where a query that may attend to nothing gets zeros.

    A drop-in replacement like `Attention`, for `scale . tanh(q + k)`. `BahdanauAttention` is the
    layer of the paper, with two projections.

    Args:
        use_scale: and dropout, as in Keras.
        seed: seed of the dropout; defaults to a random one.

    Call arguments:
        inputs: `[query, value]` or `[query, value, key]`, float `[B, T, Dq]`, `[B, S, Dv]` and
            `[B, S, Dq]`.
        mask: `[query_mask, value_mask]`, bool `[B, T]` and `[B, S]`, each may be None.
        training: and return_attention_scores, use_causal_mask, as in Keras.

    Masking: as in `Attention`.

    Returns:
        `[B, T, Dv]`; if asked for, also the weights, in the compute dtype, `[B, T, S]`.

    Raises:
        ValueError: what Keras refuses.

    Source: Bahdanau et al. 2015, section A.1.2.

    Example:
    >>> import keras
    >>> query, value = keras.ops.ones((1, 4, 5)), keras.ops.ones((1, 3, 5))
    >>> AdditiveAttention()([query, value]).shape
    TensorShape([1, 4, 5])
    """

    def __init__(
        self,
        use_scale: bool = True,
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(use_scale, dropout, seed=seed, **kwargs)

    def call(
        self,
        inputs: list,
        mask: list | None = None,
        training: bool = False,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Nested:
        """Attend from the first of `inputs` to the others."""
        flags = (training, return_attention_scores, use_causal_mask)
        return drop_in.attend_list(self, inputs, mask, *flags, dot=False)
