"""One layer of a Transformer encoder, or of a decoder without cross-attention.

Letters: B batch, T length, L cache length, N heads, K key/value heads, H head width, D model width,
F feed-forward width.
"""

from typing import Any

from keras_attn._keras import register
from keras_attn._typing import Config, Nested, Shape, Size, Tensor
from keras_attn.layers.block.transformer_block import TransformerBlock
from keras_attn.layers.masking import own_mask
from keras_attn.layers.sublayers import recomputable


@register()
class TransformerEncoderBlock(TransformerBlock):
    """Self-attention, then a feed-forward network, each with a residual connection and a norm.

    After the sum, as in the paper: `x = norm(x + dropout(sublayer(x)))`; with `normalize_first`
    before the sublayer: `x = x + dropout(sublayer(norm(x)))`.

    Args:
        num_heads: N.
        intermediate_dim: F.
        dropout: fraction of each sublayer's output that is zeroed in training, in [0, 1).
        attention_dropout: fraction of the attention weights that is zeroed in training.
        attention_output_dropout: as `dropout`, for the output of attention; defaults to `dropout`.
        activation: activation of the feed-forward network; see `FeedForward`.
        norm: "layer", "layer_no_bias" or "rms".
        layer_norm_epsilon: added to the variance.
        normalize_first: whether the norm comes before each sublayer.
        attention_norm: whether self-attention has a norm; the first block of ModernBERT has none,
            since it follows the norm of the embeddings.
        causal: whether a position attends only to itself and those before it.
        window: a position attends to those less than this far away; of a pair the first number
            limits those before it, the second those after it; None for all.
        position: how positions enter the logits: a `RotaryEmbedding`, `ALiBi` or
            `RelativePositionBias`, or None.
        kernel: which of `keras_attn.ops.kernels` computes the attention.
        kernel_initializer: initializer of all matrices.
        attention_options: further arguments of `MultiHeadSelfAttention`, a dict with any of
            `key_dim`, `value_dim`, `num_kv_heads`, `use_bias`, `bias_initializer`,
            `logits_soft_cap`, `query_key_norm`, `norm_epsilon` and `use_sink`.
        feed_forward_options: further arguments of `FeedForward`, a dict with any of `gated`,
            `use_bias`, `dropout` and `seed`.
        remat: whether training keeps only the inputs of the block and computes the rest again in
            the backward pass: the same numbers with less memory and more time.
        seed: seed of the dropouts; defaults to a random one.

    Call arguments:
        inputs: float `[B, T, D]`.
        mask: bool `[B, T]`, False at padding, which no query attends to.
        attention_mask: bool `[T, T]`, `[B, T, T]` or `[B, N, T, T]`, True where
            attention is allowed; with a cache L in place of the last T.
        sequence_ids: int `[B, T]`: positions attend only to positions of the same id.
        cache: for decoding with `causal`: `{"key", "value"}`, each `[B, K, L, H]`.
        cache_index: int or scalar tensor, position of the first input.
        return_attention_scores: whether to return the attention weights too.
        training: whether to apply dropout.
        positions: int `[T]` or `[B, T]`, as `MultiHeadSelfAttention` takes them.
        first_only: whether to compute only the first position, with the same numbers: all that a
            classifier needs of the last block. Read `outputs[:, 0]`: a mask that the inputs carry
            stays on the output, and is that of all positions.

    Masking: values at padded positions are ignored; the mask is propagated to the output.

    Returns:
        `[B, T, D]`; then, if asked for, the attention weights, float32 `[B, N, T, T]`, or
        `[B, N, T, L]` with a cache; then, if a cache was given, the cache. With `first_only`, 1 in
        place of the first T.

    Raises:
        ValueError: as in `MultiHeadSelfAttention`; an unknown norm or option.

    Source: Vaswani et al. 2017, section 3.1; norm first: Xiong et al. 2020.

    Example:
    >>> import keras
    >>> block = TransformerEncoderBlock(num_heads=2, intermediate_dim=16)
    >>> block(keras.ops.ones((3, 5, 8))).shape
    TensorShape([3, 5, 8])
    """

    def __init__(
        self, num_heads: int, intermediate_dim: int, *, causal: bool = False, **options: Any
    ) -> None:
        super().__init__(num_heads, intermediate_dim, causal=causal, **options)

    def build(self, input_shape: Shape) -> None:
        """Build the sublayers."""
        self._build_sublayers(input_shape)

    @recomputable
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
        """Transform `inputs`, or the first of them."""
        hidden, *extras = self._sublayer(
            self.self_attention,
            self.self_attention_norm,
            inputs,
            training,
            mask=own_mask(inputs, mask),
            attention_mask=attention_mask,
            sequence_ids=sequence_ids,
            cache=cache,
            cache_index=cache_index,
            return_attention_scores=return_attention_scores,
            positions=positions,
            first_only=first_only,
        )
        (outputs,) = self._sublayer(self.feed_forward, self.feed_forward_norm, hidden, training)
        return (outputs, *extras) if extras else outputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The inputs' shape."""
        return tuple(input_shape)

    def compute_output_spec(self, inputs: Tensor, *masks: Any, **options: Any) -> Nested:
        """The symbolic outputs, which have the shapes of the self-attention's."""
        return self.self_attention.compute_output_spec(inputs, *masks, **options)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {**super().get_config(), "causal": self.causal}
