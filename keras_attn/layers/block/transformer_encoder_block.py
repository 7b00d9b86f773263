"""One layer of a Transformer encoder, or of a decoder without cross-attention.

Letters: B batch, T length, N heads, D model width, F feed-forward width.
"""

from typing import Any

import keras

from keras_attn._register import register
from keras_attn.layers.attention.multi_head_self_attention import MultiHeadSelfAttention
from keras_attn.layers.block.feed_forward import FeedForward
from keras_attn.layers.masking import own_mask
from keras_attn.layers.normalization import check_norm, make_norm
from keras_attn.layers.positional import positional
from keras_attn.layers.quantization import quantized_parts
from keras_attn.layers.recomputation import recomputable
from keras_attn.ops.random import check_rate


@register()
class TransformerEncoderBlock(keras.layers.Layer):
    """Self-attention, then a feed-forward network, each with a residual connection and a norm.

    After the sum, as in the paper: `x = norm(x + dropout(sublayer(x)))`; with `normalize_first`
    before the sublayer: `x = x + dropout(sublayer(norm(x)))`.

    Args:
        num_heads: N.
        intermediate_dim: F.
        dropout: share of each sublayer's output that is zeroed in training, in [0, 1).
        attention_dropout: share of the attention weights that is zeroed in training.
        activation: of the feed-forward network, a name or a function.
        norm: "layer" or "rms".
        layer_norm_epsilon: added to the variance.
        normalize_first: whether the norm stands before each sublayer.
        causal: whether a position sees only itself and those before it.
        window: a position sees those less than this far away; None sees all.
        position: how positions enter the logits: a `RotaryEmbedding`, `ALiBi` or
            `RelativePositionBias`, or None.
        kernel: which of `keras_attn.ops.kernels` computes the attention.
        kernel_initializer: of all matrices.
        remat: whether training keeps only the inputs of the block and computes the rest again in
            the backward pass: the same numbers for less memory and more time.
        seed: of the dropouts; drawn anew unless given.

    Call arguments:
        inputs: float `[B, T, D]`.
        mask: bool `[B, T]`, False at padding, to which nobody attends.
        attention_mask: bool `[B, T, T]` or `[B, N, T, T]`, True where attention is allowed.
        sequence_ids: int `[B, T]`: positions attend only to positions of the same id.
        cache: and `cache_index`: as in `MultiHeadSelfAttention`.
        return_attention_scores: whether to return the weights too.
        training: whether dropout acts.

    Masking: what stands at a padded position means nothing; the mask goes on.

    Returns:
        `[B, T, D]`; then, if asked for, the weights, float32 `[B, N, T, T]`; then, if a cache came
        in, the cache.

    Raises:
        ValueError: as in `MultiHeadSelfAttention`; an unknown norm.

    Source: Vaswani et al. 2017, section 3.1; norm first: Xiong et al. 2020.

    Example:
    >>> import keras
    >>> block = TransformerEncoderBlock(num_heads=2, intermediate_dim=16)
    >>> block(keras.ops.ones((3, 5, 8))).shape
    TensorShape([3, 5, 8])
    """

    def __init__(
        self,
        num_heads: int,
        intermediate_dim: int,
        *,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation: Any = "gelu",
        norm: str = "layer",
        layer_norm_epsilon: float = 1e-5,
        normalize_first: bool = False,
        causal: bool = False,
        window: int | None = None,
        position: keras.layers.Layer | None = None,
        kernel: str = "auto",
        kernel_initializer: Any = "glorot_uniform",
        remat: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_norm(norm)
        check_rate("dropout", dropout)
        check_rate("attention_dropout", attention_dropout)
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation = keras.activations.get(activation)
        self.norm = norm
        self.layer_norm_epsilon = layer_norm_epsilon
        self.normalize_first = normalize_first
        self.causal = causal
        self.window = window
        self.position = positional(position, num_heads)
        self.kernel = kernel
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.remat = remat
        self.seed = seed
        self.supports_masking = True
        self.self_attention = MultiHeadSelfAttention(
            num_heads,
            dropout=attention_dropout,
            causal=causal,
            window=window,
            position=self.position,
            kernel=kernel,
            kernel_initializer=self.kernel_initializer.clone(),
            seed=seed,
            dtype=self.dtype_policy,
            name="self_attention",
        )
        self.feed_forward = FeedForward(
            intermediate_dim,
            activation=self.activation,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name="feed_forward",
        )
        self.self_attention_norm = self._norm("self_attention_norm")
        self.feed_forward_norm = self._norm("feed_forward_norm")
        self.dropout_layer = keras.layers.Dropout(
            dropout, seed=seed, dtype=self.dtype_policy, name="dropout"
        )

    def build(self, input_shape: Any) -> None:
        """Build the sublayers."""
        for layer in (
            self.self_attention,
            self.self_attention_norm,
            self.feed_forward,
            self.feed_forward_norm,
        ):
            layer.build(input_shape)

    @recomputable
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
        """Transform `inputs`."""
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
        )
        (outputs,) = self._sublayer(self.feed_forward, self.feed_forward_norm, hidden, training)
        return (outputs, *extras) if extras else outputs

    def get_config(self) -> dict:
        """All constructor arguments."""
        return {
            **super().get_config(),
            **quantized_parts(self),
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "activation": keras.activations.serialize(self.activation),
            "norm": self.norm,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "normalize_first": self.normalize_first,
            "causal": self.causal,
            "window": self.window,
            "position": keras.saving.serialize_keras_object(self.position),
            "kernel": self.kernel,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "remat": self.remat,
            "seed": self.seed,
        }

    def _norm(self, name: str) -> keras.layers.Layer:
        return make_norm(self.norm, self.layer_norm_epsilon, dtype=self.dtype_policy, name=name)

    def _sublayer(
        self, layer: Any, norm: Any, inputs: Any, training: bool | None, **arguments: Any
    ) -> tuple:
        """What the layer returns, with the residual connection and the norm around its output."""
        outputs = layer(
            norm(inputs) if self.normalize_first else inputs, training=training, **arguments
        )
        outputs, *extras = outputs if isinstance(outputs, tuple) else (outputs,)
        total = inputs + self.dropout_layer(outputs, training=training)
        return (total if self.normalize_first else norm(total), *extras)
