"""Attention of a sequence to itself, with many heads.

Letters: B batch, T length, L cache length, N query heads, K key/value heads, H head width, D model
width.
"""

import keras

from keras_attn import ops
from keras_attn._checks import check_shape, to_ids, to_mask
from keras_attn._keras import register
from keras_attn._typing import Nested, Shape, Size, Tensor
from keras_attn.layers.attention.multi_head import MultiHead
from keras_attn.layers.masking import first_position, own_mask, to_attention_mask


@register()
class MultiHeadSelfAttention(MultiHead):
    """Attend from every position of a sequence to the positions of the same sequence.

    `MultiHeadCrossAttention` with one input as query, key and value; `causal=True` for a decoder,
    `window=w` for restricted self-attention, whose cost grows linearly with the length.

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
        inputs: float `[B, T, D]`.
        mask: bool `[B, T]`, False at padding, which no query attends to.
        attention_mask: bool `[T, T]`, `[B, T, T]` or `[B, N, T, T]`, True where attention is
            allowed.
        sequence_ids: int `[B, T]`: positions attend only to positions of the same id, so that
            several sequences can share a row.
        cache: `{"key", "value"}` of decoding, each `[B, K, L, H]`, with `causal=True` only.
        cache_index: int or scalar tensor, position of the first input.
        return_attention_scores: whether to return the attention weights too.
        training: whether to apply dropout.
        positions: int `[T]` or `[B, T]`, positions of the inputs for a `RotaryEmbedding`, such as
            those after padding on the left; defaults to `cache_index` and on. Masks and windows
            go by the index in the row.
        first_only: whether to compute only the first position, which attends to the same keys; the
            masks stay those of all positions, also the one that the inputs carry to the output.

    Masking: as in `MultiHeadCrossAttention`, except that `mask` removes padding only as keys: the
    output at a padded position is computed like any other and has no meaning. NaN there reaches no
    unmasked output, but it does reach the gradients of the projections: replace it before.

    Returns:
        `[B, T, output width]`; then, if asked for, the attention weights, float32 `[B, N, T, T]`
        (`[B, N, T, L]` with a cache); then, if a cache was given, the cache. With `first_only`,
        1 in place of the first T.

    Raises:
        ValueError: as in `MultiHeadCrossAttention`; a cache without `causal=True`; positions
            without a `RotaryEmbedding`; either of them, or a length of 0, with `first_only`.

    Source: Vaswani et al. 2017, sections 3.2.3 and 4 (restricted self-attention); window: Beltagy
    et al. 2020, section 3.1, and causal Jiang et al. 2023, section 2; soft cap: Gemma Team 2024,
    section 2; norm of query and key: Henry et al. 2020; sink: Xiao et al. 2024, section 3.3, and
    OpenAI 2025 (gpt-oss), section 2.

    Example:
    >>> import keras
    >>> layer = MultiHeadSelfAttention(num_heads=2, causal=True)
    >>> _, weights = layer(keras.ops.ones((1, 3, 8)), return_attention_scores=True)
    >>> keras.ops.convert_to_numpy(weights[0, 0]).round(2).astype(str).tolist()[1:]
    [['0.5', '0.5', '0.0'], ['0.33', '0.33', '0.33']]
    """

    def build(self, input_shape: Shape) -> None:
        """Create the four projections."""
        check_shape("inputs", input_shape, batch=None, length=None, width=None)
        self._build_projections(input_shape, input_shape, input_shape)

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        cache: dict | None = None,
        cache_index: Size = 0,
        return_attention_scores: bool = False,
        training: bool | None = None,
        positions: Tensor | None = None,
        first_only: bool = False,
    ) -> Nested:
        """Attend from `inputs`, or the first of them, to `inputs`."""
        mask = own_mask(inputs, mask)
        masks = self._checked(
            inputs, mask, attention_mask, sequence_ids, cache, positions, first_only
        )
        mask = ops.AttentionMask(
            causal=self.causal, window=self.window, query_offset=cache_index, **masks
        )
        return self._attend(
            first_position(inputs) if first_only else inputs,
            inputs,
            None,
            mask,
            cache,
            cache_index,
            return_attention_scores,
            training,
            positions,
        )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Shape of the output without weights and cache."""
        return (*input_shape[:-1], self._output_width or input_shape[-1])

    def compute_output_spec(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        cache: dict | None = None,
        cache_index: Size = 0,
        return_attention_scores: bool = False,
        training: bool | None = None,
        positions: Tensor | None = None,
        first_only: bool = False,
    ) -> Nested:
        """Symbolic outputs, in the order of those of the call."""
        self._checked(inputs, mask, attention_mask, sequence_ids, cache, positions, first_only)
        length = inputs.shape[1] if cache is None else cache["key"].shape[2]
        batch, queries, width = inputs.shape
        query = keras.KerasTensor((batch, 1 if first_only else queries, width), inputs.dtype)
        return self._output_spec(query, length, cache, return_attention_scores)

    def _checked(
        self,
        inputs: Tensor,
        mask: Tensor | None,
        attention_mask: Tensor | None,
        sequence_ids: Tensor | None,
        cache: dict | None,
        positions: Tensor | None,
        first_only: bool,
    ) -> dict[str, Tensor | None]:
        """The arguments of the mask, with checked shapes."""
        if cache is not None and not self.causal:
            raise ValueError("`cache` needs a layer with `causal=True`, got causal=False")
        if first_only and (cache is not None or positions is not None):
            raise ValueError("`first_only` must be False with a cache or with `positions`")
        check_shape("inputs", inputs.shape, batch=None, length=None, width=None)
        batch, queries, _ = inputs.shape
        keys = queries if cache is None else cache["key"].shape[2]
        ids = to_ids("sequence_ids", sequence_ids, batch=batch, length=queries)
        dense = to_attention_mask(attention_mask, batch, self.num_heads, queries, keys)
        return {
            "key_padding": to_mask("mask", mask, batch=batch, length=keys),
            "query_sequence_ids": ids[:, :1] if first_only and ids is not None else ids,
            "key_sequence_ids": ids,
            "dense": dense[:, :, :1] if first_only and dense is not None else dense,
        }
