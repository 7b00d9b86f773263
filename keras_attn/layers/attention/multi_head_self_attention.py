"""Attention of a sequence to itself, with many heads.

Letters: B batch, T length, L cache length, N query heads, K key/value heads, H head width, D model
width.
"""

from typing import Any

from keras_attn._register import register
from keras_attn.layers.attention.multi_head_cross_attention import MultiHeadCrossAttention
from keras_attn.layers.masking import own_mask


@register()
class MultiHeadSelfAttention(MultiHeadCrossAttention):
    """Attend from every position of a sequence to the positions of the same sequence.

    `MultiHeadCrossAttention` with one input as query, key and value; `causal=True` for a decoder,
    `window=w` for restricted self-attention, whose cost grows linearly with the length.

    Args:
        num_heads: and the others, as in `MultiHeadCrossAttention`.

    Call arguments:
        inputs: float `[B, T, D]`.
        mask: bool `[B, T]`, False at padding, to which nobody attends.
        attention_mask: bool `[T, T]`, `[B, T, T]` or `[B, N, T, T]`, True where attention is
            allowed.
        sequence_ids: int `[B, T]`: positions attend only to positions of the same id, so that
            several sequences can share a row.
        cache: `{"key", "value"}` of decoding, each `[B, K, L, H]`, with `causal=True` only.
        cache_index: int or scalar tensor, position of the first input.
        return_attention_scores: whether to return the weights too.
        training: whether dropout acts.

    Masking: as in `MultiHeadCrossAttention`, except that `mask` removes padding only as keys: what
    stands at a padded position is computed like any other and means nothing.

    Returns:
        `[B, T, output width]`; then, if asked for, the weights, float32 `[B, N, T, T]` (`[B, N, T,
        L]` with a cache); then, if a cache came in, the cache.

    Raises:
        ValueError: as in `MultiHeadCrossAttention`; a cache without `causal=True`.

    Source: Vaswani et al. 2017, sections 3.2.3 and 4 (restricted self-attention).

    Example:
    >>> import keras
    >>> layer = MultiHeadSelfAttention(num_heads=2, causal=True)
    >>> _, weights = layer(keras.ops.ones((1, 3, 8)), return_attention_scores=True)
    >>> keras.ops.convert_to_numpy(weights[0, 0]).round(2).astype(str).tolist()[1:]
    [['0.5', '0.5', '0.0'], ['0.33', '0.33', '0.33']]
    """

    def build(self, input_shape: Any) -> None:
        """Create the four projections."""
        super().build(input_shape)

    def call(
        self,
        inputs: Any,
        mask: Any = None,
        attention_mask: Any = None,
        sequence_ids: Any = None,
        cache: dict | None = None,
        cache_index: Any = 0,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Any:
        """Attend from `inputs` to `inputs`."""
        if cache is not None and not self.causal:
            raise ValueError("`cache` needs a layer with `causal=True`, got causal=False")
        return super().call(
            inputs,
            inputs,
            value_mask=own_mask(inputs, mask),
            attention_mask=attention_mask,
            sequence_ids=None if sequence_ids is None else (sequence_ids, sequence_ids),
            cache=cache,
            cache_index=cache_index,
            return_attention_scores=return_attention_scores,
            training=training,
        )
