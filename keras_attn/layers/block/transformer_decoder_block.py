"""One layer of a Transformer decoder that attends to a context.

Letters: B batch, T length, S context length, L cache length, N heads, K key/value heads, H head
width, D model width, Dc context width, F feed-forward width.
"""

from typing import Any

import keras

from keras_attn._checks import check_shape, to_mask
from keras_attn._keras import register
from keras_attn._typing import Nested, Shape, Size, Tensor
from keras_attn.layers.attention.multi_head_cross_attention import MultiHeadCrossAttention
from keras_attn.layers.block.transformer_block import TransformerBlock
from keras_attn.layers.masking import own_mask
from keras_attn.layers.sublayers import recomputable
from keras_attn.ops.cache import store


@register()
class TransformerDecoderBlock(TransformerBlock):
    """Causal self-attention, attention to a context, and a feed-forward network.

    Each of the three has a residual connection and a norm, after the sum or, with
    `normalize_first`, before the sublayer, as in `TransformerEncoderBlock`. For a decoder without a
    context, use that block with `causal=True`.

    Args:
        num_heads: N, of both attentions.
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
        window: self-attention attends to positions less than this far back; None for all.
            `MultiHeadSelfAttention` tells what a pair is.
        position: how positions enter the logits of the self-attention: a `RotaryEmbedding`,
            `ALiBi` or `RelativePositionBias`, or None.
        kernel: which of `keras_attn.ops.kernels` computes the attention.
        kernel_initializer: initializer of all matrices.
        attention_options: further arguments of both attentions, a dict with any of
            `key_dim`, `value_dim`, `num_kv_heads`, `use_bias`, `bias_initializer`,
            `logits_soft_cap`, `query_key_norm`, `norm_epsilon` and `use_sink`.
        feed_forward_options: further arguments of `FeedForward`, a dict with any of `gated`,
            `use_bias`, `dropout` and `seed`.
        remat: whether training keeps only the inputs of the block and computes the rest again in
            the backward pass: the same numbers with less memory and more time.
        seed: seed of the dropouts; defaults to a random one.

    Call arguments:
        inputs: float `[B, T, D]`.
        context: float `[B, S, Dc]`, such as an encoder's output; None if the cache already holds
            its keys and values.
        mask: bool `[B, T]`, False at padding, which no query attends to.
        context_mask: bool `[B, S]`, False at the context's padding.
        attention_mask: bool `[T, T]`, `[B, T, T]` or `[B, N, T, T]`, True where
            self-attention is allowed; with a cache L in place of the last T.
        sequence_ids: int `[B, T]`: positions attend only to positions of the same id.
        cache: for decoding: `{"self": {"key", "value"}}`, each `[B, K, L, H]`; the returned cache
            `{"self", "context"}` also has the context's keys and values, for all later steps.
        cache_index: int or scalar tensor, position of the first input.
        return_attention_scores: whether to return the attention weights too.
        training: whether to apply dropout.
        positions: int `[T]` or `[B, T]`, as `MultiHeadSelfAttention` takes them.

    Masking: values at padded positions are ignored; the mask is propagated to the output.

    Returns:
        `[B, T, D]`; then, if asked for, the weights of the self-attention, float32 `[B, N, T, T]`
        (`[B, N, T, L]` with a cache), and those over the context, `[B, N, T, S]`; then, if a cache
        was given, the cache.

    Raises:
        ValueError: as in `TransformerEncoderBlock`; no context, and no keys of it in the cache.

    Source: Vaswani et al. 2017, section 3.1; norm first: Xiong et al. 2020.

    Example:
    >>> import keras
    >>> block = TransformerDecoderBlock(num_heads=2, intermediate_dim=16)
    >>> block(keras.ops.ones((3, 5, 8)), keras.ops.ones((3, 7, 12))).shape
    TensorShape([3, 5, 8])
    """

    def __init__(self, num_heads: int, intermediate_dim: int, **options: Any) -> None:
        super().__init__(num_heads, intermediate_dim, causal=True, **options)
        self.cross_attention = MultiHeadCrossAttention(
            num_heads,
            dropout=self.attention_dropout,
            kernel=self.kernel,
            kernel_initializer=self.kernel_initializer.clone(),
            seed=self.seed,
            dtype=self.dtype_policy,
            name="cross_attention",
            **self.attention_options,
        )
        self.cross_attention_norm = self._norm("cross_attention_norm")

    def build(self, inputs_shape: Shape, context_shape: Shape | None = None, **_: Any) -> None:
        """Build the sublayers."""
        if context_shape is None:
            raise ValueError("`context` must be given in the first call, got None")
        self._build_sublayers(inputs_shape)
        self.cross_attention.build(inputs_shape, context_shape)
        self.cross_attention_norm.build(inputs_shape)

    @recomputable
    def call(
        self,
        inputs: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        cache: dict | None = None,
        cache_index: Size = 0,
        return_attention_scores: bool = False,
        training: bool | None = None,
        positions: Tensor | None = None,
    ) -> Nested:
        """Transform `inputs` with the context."""
        hidden, *extras = self._sublayer(
            self.self_attention,
            self.self_attention_norm,
            inputs,
            training,
            mask=own_mask(inputs, mask),
            attention_mask=attention_mask,
            sequence_ids=sequence_ids,
            cache=None if cache is None else cache["self"],
            cache_index=cache_index,
            return_attention_scores=return_attention_scores,
            positions=positions,
        )
        cached = None
        if cache is not None:
            cached = self._context_cache(cache) if context is None else self.store(context)
        hidden, *context_extras = self._sublayer(
            self.cross_attention,
            self.cross_attention_norm,
            hidden,
            training,
            value=context if cached is None else None,
            value_mask=self._checked_mask(context, context_mask),
            cache=cached,
            return_attention_scores=return_attention_scores,
        )
        (outputs,) = self._sublayer(self.feed_forward, self.feed_forward_norm, hidden, training)
        weights = (extras[0], context_extras[0]) if return_attention_scores else ()
        caches = () if cache is None else ({"self": extras[-1], "context": cached},)
        return (outputs, *weights, *caches) if weights or caches else outputs

    def compute_output_shape(
        self, inputs_shape: Shape, context_shape: Shape | None = None
    ) -> Shape:
        """The inputs' shape."""
        return tuple(inputs_shape)

    def compute_output_spec(
        self,
        inputs: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        cache: dict | None = None,
        cache_index: Size = 0,
        return_attention_scores: bool = False,
        training: bool | None = None,
        positions: Tensor | None = None,
    ) -> Nested:
        """Symbolic outputs, in the order of those of the call."""
        outputs = self.self_attention.compute_output_spec(
            inputs,
            mask=mask,
            attention_mask=attention_mask,
            sequence_ids=sequence_ids,
            cache=None if cache is None else cache["self"],
            return_attention_scores=return_attention_scores,
        )
        outputs, *extras = outputs if isinstance(outputs, tuple) else (outputs,)
        cached = None if cache is None else self._context_spec(context, cache)
        context_outputs = self.cross_attention.compute_output_spec(
            inputs,
            context if cached is None else None,
            value_mask=self._checked_mask(context, context_mask),
            cache=cached,
            return_attention_scores=return_attention_scores,
        )
        weights = (extras[0], context_outputs[1]) if return_attention_scores else ()
        caches = () if cache is None else ({"self": extras[-1], "context": cached},)
        return (outputs, *weights, *caches) if weights or caches else outputs

    def store(self, context: Tensor) -> dict:
        """The keys and values of a context, `{"key", "value"}`, for all decoding steps."""
        return store(*self.cross_attention.keys_and_values(context))

    def _checked_mask(self, context: Tensor | None, context_mask: Tensor | None) -> Tensor | None:
        if context is None:
            return context_mask
        check_shape("context", context.shape, batch=None, length=None, width=None)
        batch, length, _ = context.shape
        return to_mask("context_mask", context_mask, batch=batch, length=length)

    def _context_cache(self, cache: dict) -> dict:
        if "context" not in cache:
            raise ValueError(
                "`context` must be given where the cache has none, got a cache with "
                f"{', '.join(cache)}"
            )
        return cache["context"]

    def _context_spec(self, context: Tensor | None, cache: dict) -> dict:
        if context is None:
            return keras.tree.map_structure(
                lambda x: keras.KerasTensor(x.shape, x.dtype), self._context_cache(cache)
            )
        attention = self.cross_attention
        heads = attention.num_kv_heads or attention.num_heads
        units = {"key": attention.key_projection.units, "value": attention.value_projection.units}
        batch, length, _ = context.shape
        return {
            name: keras.KerasTensor((batch, heads, length, width // heads), self.compute_dtype)
            for name, width in units.items()
        }
