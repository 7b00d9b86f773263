"""Attention from one sequence to another, with many heads.

Letters: B batch, T query length, S key length, L cache length, N query heads, K key/value heads,
H head width, D model width.
"""

from keras_attn import ops
from keras_attn._checks import check_shape, to_ids, to_mask
from keras_attn._keras import register
from keras_attn._typing import Nested, Shape, Size, Tensor
from keras_attn.layers.attention.multi_head import MultiHead
from keras_attn.layers.masking import both, to_attention_mask, without_hidden


@register()
class MultiHeadCrossAttention(MultiHead):
    """Attend from a query sequence to a key/value sequence, with many heads.

    `output(concat_n(softmax(q_n k_n^T / sqrt(H)) v_n))`, where `q_n`, `k_n` and `v_n` are linear
    projections of the inputs for head n.

    Args:
        num_heads: N, heads of the query.
        key_dim: H, width of each query and key head; defaults to the query's width divided by N.
        value_dim: width of each value head; defaults to `key_dim`.
        num_kv_heads: K, which divides N (grouped-query attention); defaults to N.
        output_shape: width of the output; defaults to the query's width.
        dropout: fraction of the attention weights that is zeroed in training, in [0, 1).
        use_bias: whether the projections have a bias.
        causal: whether a query attends only to keys at its own position and before.
        window: a query attends to keys less than this many positions away; of a pair the first
            number limits the keys before it, the second those after it; None for all keys.
        position: how positions enter the logits: a `RotaryEmbedding`, `ALiBi` or
            `RelativePositionBias`, or None.
        logits_soft_cap: c: the logits become `c tanh(logits / c)`; None for no cap.
        query_key_norm: "layer", "layer_no_bias" or "rms" for a norm of each query and key head,
            before positions enter; None for none.
        norm_epsilon: added to the variance in that norm.
        use_sink: whether each head learns one more logit, which takes weight and gives nothing; at
            first zero.
        kernel: which of `keras_attn.ops.kernels` computes it; "auto" takes the best.
        kernel_initializer: initializer of the projections' matrices.
        bias_initializer: initializer of the projections' biases.
        seed: seed of the dropout; defaults to a random one.

    Call arguments:
        query: float `[B, T, D]`.
        value: float `[B, S, Dv]`; None if the cache already holds all keys and values, such as
            those of an encoder's output.
        key: float `[B, S, Dk]`; defaults to the value.
        query_mask: bool `[B, T]`; a query where it is False attends to nothing.
        value_mask: bool `[B, S]`; no query attends to a key where it is False.
        key_mask: bool `[B, S]`, the same as `value_mask`; both must allow a key.
        attention_mask: bool `[T, S]`, `[B, T, S]` or `[B, N, T, S]`, True where a query may attend
            to a key.
        sequence_ids: a pair of int `[B, T]` and `[B, S]`: a query attends only to keys of its own
            id.
        cache: `{"key": [B, K, L, H], "value": [B, K, L, H]}` of decoding, from
            `keras_attn.ops.cache`; the new keys are written into it at `cache_index`.
        cache_index: int or scalar tensor, position of the first query.
        return_attention_scores: whether to return the attention weights too.
        training: whether to apply dropout.

    Masking: every given mask applies, together with Keras' own masks of the tensors. A query that
    may attend to nothing gets zero weights and zero context, so its output is the bias of the
    output projection. The query's mask is propagated to the output.

    Returns:
        `[B, T, output width]`; then, if asked for, the attention weights, float32 `[B, N, T, S]`;
        then, if a cache was given, the cache.

    Raises:
        ValueError: heads that do not divide, a window that is not positive, dropout outside
            [0, 1), an unknown kernel, inputs or masks of the wrong rank or shape.

    Source: Vaswani et al. 2017, section 3.2.2; window: Beltagy et al. 2020, section
    3.1; soft cap: Gemma Team 2024, section 2; norm of query and key: Henry et al. 2020;
    sink: Xiao et al. 2024, section 3.3, and OpenAI 2025 (gpt-oss), section 2.

    Example:
    >>> import keras
    >>> layer = MultiHeadCrossAttention(num_heads=2, key_dim=3)
    >>> layer(keras.ops.ones((5, 7, 12)), keras.ops.ones((5, 11, 13))).shape
    TensorShape([5, 7, 12])
    """

    def build(
        self, query_shape: Shape, value_shape: Shape | None = None, key_shape: Shape | None = None
    ) -> None:
        """Create the four projections."""
        value_shape = value_shape or query_shape
        key_shape = key_shape or value_shape
        for name, shape in (("query", query_shape), ("value", value_shape), ("key", key_shape)):
            check_shape(name, shape, batch=None, length=None, width=None)
        self._build_projections(query_shape, value_shape, key_shape)

    def call(
        self,
        query: Tensor,
        value: Tensor | None = None,
        key: Tensor | None = None,
        query_mask: Tensor | None = None,
        value_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        sequence_ids: tuple[Tensor, Tensor] | None = None,
        cache: dict | None = None,
        cache_index: Size = 0,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Nested:
        """Attend from `query` to `key` and `value`."""
        masks = self._checked(
            query, value, key, query_mask, value_mask, key_mask, attention_mask, sequence_ids, cache
        )
        query = without_hidden(query, masks["query_padding"])
        if value is not None and cache is None:
            value = without_hidden(value, masks["key_padding"])
            key = key if key is None else without_hidden(key, masks["key_padding"])
        mask = ops.AttentionMask(
            causal=self.causal, window=self.window, query_offset=cache_index, **masks
        )
        return self._attend(
            query, value, key, mask, cache, cache_index, return_attention_scores, training
        )

    def compute_output_shape(
        self, query_shape: Shape, value_shape: Shape | None = None, key_shape: Shape | None = None
    ) -> Shape:
        """Shape of the output without weights and cache."""
        return (*query_shape[:-1], self._output_width or query_shape[-1])

    def compute_output_spec(
        self,
        query: Tensor,
        value: Tensor | None = None,
        key: Tensor | None = None,
        query_mask: Tensor | None = None,
        value_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        sequence_ids: tuple[Tensor, Tensor] | None = None,
        cache: dict | None = None,
        cache_index: Size = 0,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Nested:
        """Symbolic outputs, in the order of those of the call."""
        self._checked(
            query, value, key, query_mask, value_mask, key_mask, attention_mask, sequence_ids, cache
        )
        length = _key_length(value, cache)
        return self._output_spec(query, length, cache, return_attention_scores)

    def _checked(
        self,
        query: Tensor,
        value: Tensor | None,
        key: Tensor | None,
        query_mask: Tensor | None,
        value_mask: Tensor | None,
        key_mask: Tensor | None,
        attention_mask: Tensor | None,
        sequence_ids: tuple[Tensor, Tensor] | None,
        cache: dict | None,
    ) -> dict[str, Tensor | None]:
        """The arguments of the mask, with checked shapes."""
        check_shape("query", query.shape, batch=None, length=None, width=None)
        if value is None and cache is None:
            raise ValueError("`value` must be given where there is no `cache`, got None")
        batch, queries, _ = query.shape
        if value is not None:
            check_shape("value", value.shape, batch=batch, length=None, width=None)
            if key is not None:
                check_shape("key", key.shape, batch=batch, length=value.shape[1], width=None)
        keys = _key_length(value, cache)
        rows, columns = {"batch": batch, "length": queries}, {"batch": batch, "length": keys}
        query_ids, key_ids = (None, None) if sequence_ids is None else sequence_ids
        return {
            "key_padding": both(
                to_mask("value_mask", value_mask, **columns),
                to_mask("key_mask", key_mask, **columns),
            ),
            "query_padding": to_mask("query_mask", query_mask, **rows),
            "query_sequence_ids": to_ids("sequence_ids", query_ids, **rows),
            "key_sequence_ids": to_ids("sequence_ids", key_ids, **columns),
            "dense": to_attention_mask(attention_mask, batch, self.num_heads, queries, keys),
        }


def _key_length(value: Tensor, cache: dict | None) -> int | None:
    return value.shape[1] if cache is None else cache["key"].shape[2]
