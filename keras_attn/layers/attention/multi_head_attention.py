"""Keras' own attention layer, computed by our kernels.

Letters: B batch, T query length, S key length, N heads, H head width, D model width.
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_attn._checks import check_count, check_rate, optional_count
from keras_attn._keras import option, register, serialize_shared, set_alone
from keras_attn._typing import Config, Constraint, Initializer, Nested, Regularizer, Shape, Tensor
from keras_attn.layers.attention import drop_in
from keras_attn.layers.sublayers import to_position


@register()
class MultiHeadAttention(drop_in.ManyHeads, keras.layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` with exact attention in linear memory.

    A drop-in replacement: the same arguments with the same meaning, the same sublayers and weights,
    so that changing the import is enough; configurations, `set_weights`, `.weights.h5` files,
    `enable_lora` and `quantize` are interchangeable. The outputs are the same except where Keras
    3.15 is wrong:

    - a query that may attend to nothing always has zero weights, zero context and zero gradient
      (Keras: the mean of all values, unless scores or dropout are used);
    - `query_mask` applies when it is given as an argument (Keras: only as the query's own mask);
    - the inputs keep their own masks (Keras removes them);
    - `use_causal_mask` and `sliding_window` follow `attention_axes` (Keras: axis 1);
    - the symbolic shape of the scores is `[B, N, T, S]` (Keras: `[B, N, T, T]`);
    - dropout, scores and every kernel work together, and returning scores changes no output (Keras:
      `flash_attention=True` raises with dropout or scores; otherwise they take the slow path);
    - `flash_attention` is saved with the layer;
    - the constructor rejects a `dropout` outside [0, 1).

    For self-attention in new models `MultiHeadSelfAttention` is simpler, and has grouped heads, a
    cache and packed rows; `MultiHeadCrossAttention` is the layer for two sequences.

    Args:
        num_heads: and all others up to `seed`, as in Keras.
        flash_attention: False computes with the reference kernel, which holds all scores; True uses
            the best kernel for the shapes; None follows `keras.config`.
        position: how positions enter the logits: a `RotaryEmbedding`, `ALiBi` or
            `RelativePositionBias`, or None. Keras has no such argument.

    Call arguments:
        query: float `[B, T, D]`, or with more axes where `attention_axes` names those of T.
        value: and key, query_mask, value_mask, key_mask, attention_mask, return_attention_scores,
            training, use_causal_mask, as in Keras. The axes of attention_mask are `[B, N, T, S]`;
            heads and batch may be missing.

    Masking: as in `MultiHeadCrossAttention`: explicit masks and the tensors' own masks all apply,
    and the query's mask is propagated to the output.

    Returns:
        `[B, T, D]`, or the `output_shape` instead of D; if asked for, also the weights, in the
        compute dtype, `[B, N, T, S]`.

    Raises:
        ValueError: what Keras rejects; dropout outside [0, 1); a mask of the wrong shape.

    Source: Vaswani et al. 2017, section 3.2.2; the gate: Qiu et al. 2025.

    Example:
    >>> import keras
    >>> theirs, ours = keras.layers.MultiHeadAttention(2, 3), MultiHeadAttention(2, 3)
    >>> query, value = keras.ops.ones((1, 4, 5)), keras.ops.ones((1, 3, 7))
    >>> expected, _ = theirs(query, value), ours(query, value)
    >>> ours.set_weights(theirs.get_weights())
    >>> bool(keras.ops.all(keras.ops.abs(ours(query, value) - expected) < 1e-6))
    True
    """

    sliding_window = option("sliding_window")
    use_gate = option("use_gate")
    kernel_initializer = option("kernel_initializer")
    bias_initializer = option("bias_initializer")
    kernel_regularizer = option("kernel_regularizer")
    bias_regularizer = option("bias_regularizer")
    kernel_constraint = option("kernel_constraint")
    bias_constraint = option("bias_constraint")

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: int | Sequence[int] | None = None,
        attention_axes: int | Sequence[int] | None = None,
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
        *,
        position: keras.layers.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        check_rate("dropout", dropout)
        num_heads = check_count("num_heads", num_heads)
        super().__init__(
            num_heads,
            check_count("key_dim", key_dim),
            value_dim=optional_count("value_dim", value_dim),
            dropout=0.0,  # Keras rejects dropout with flash attention
            use_bias=use_bias,
            output_shape=output_shape,
            attention_axes=attention_axes,
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
        set_alone(self, "dropout", dropout)
        self.flash_attention = flash_attention
        self.position = to_position(position, num_heads)

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        """Create the projections, and build the position."""
        super().build(query_shape, value_shape, key_shape)
        if self.position is not None and not self.position.built:
            self.position.build((None, None, self.num_heads, self.key_dim))

    def compute_output_spec(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        query_mask: Tensor | None = None,
        value_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Nested:
        """Symbolic output, and symbolic weights if they are asked for."""
        masks = (query_mask, value_mask, key_mask, attention_mask)
        key = value if key is None else key
        axes, _ = drop_in.checked(self, query, value, key, masks)
        shape = self.compute_output_shape(query.shape, value.shape, key.shape)
        outputs = keras.KerasTensor(shape, self.compute_dtype)
        if not return_attention_scores:
            return outputs
        shape = axes.scores_shape(query.shape, key.shape, self.num_heads)
        return outputs, keras.KerasTensor(shape, self.compute_dtype)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {**super().get_config(), "position": serialize_shared(self.position)}
