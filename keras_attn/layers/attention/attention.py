"""Keras' own attention layer without projections, computed by our kernels.

Letters: B batch, T query length, S key length, Dq width of queries and keys, Dv width of values.
"""

import keras

from keras_attn._keras import register
from keras_attn._typing import Nested
from keras_attn.layers.attention import drop_in


@register()
class Attention(keras.layers.Attention):
    """`keras.layers.Attention`, where a query that may attend to nothing gets zeros.

    A drop-in replacement: the same arguments with the same meaning, the same weights and the same
    outputs, except that Keras gives such a query the mean of all values. "dot" runs in linear
    memory; "concat" needs the logits of all pairs, as in Keras.

    `LuongAttention` and `BahdanauAttention` are the layers of the papers, with projections.

    Args:
        use_scale: and score_mode, dropout, seed, as in Keras.

    Call arguments:
        inputs: `[query, value]` or `[query, value, key]`, float `[B, T, Dq]`, `[B, S, Dv]` and
            `[B, S, Dq]`.
        mask: `[query_mask, value_mask]`, bool `[B, T]` and `[B, S]`, each may be None.
        training: and return_attention_scores, use_causal_mask, as in Keras.

    Masking: no query attends to a value where `value_mask` is False; the output is zero where
    `query_mask` is False. Keras fills both in, and propagates the query's mask to the output.

    Returns:
        `[B, T, Dv]`; if asked for, also the weights, in the compute dtype, `[B, T, S]`.

    Raises:
        ValueError: what Keras refuses.

    Source: Luong et al. 2015, section 3.1.

    Example:
    >>> import keras
    >>> query, value = keras.ops.ones((1, 4, 5)), keras.ops.ones((1, 3, 5))
    >>> Attention()([query, value]).shape
    TensorShape([1, 4, 5])
    """

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
        return drop_in.attend_list(self, inputs, mask, *flags, dot=self.score_mode == "dot")
