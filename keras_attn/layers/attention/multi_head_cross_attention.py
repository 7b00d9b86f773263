"""Attention between two sequences, with many heads.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head width,
D model width.
"""

from typing import Any

import keras

from keras_attn import ops
from keras_attn._register import register
from keras_attn.layers.masking import both, first_mask
from keras_attn.layers.positional import positional
from keras_attn.layers.projection import Projection
from keras_attn.layers.quantization import quantized_parts
from keras_attn.ops import cache as caches
from keras_attn.ops import kernels
from keras_attn.ops.masks import check_window, dense_mask
from keras_attn.ops.random import check_rate


@register()
class MultiHeadCrossAttention(keras.layers.Layer):
    """Attend from a query sequence to a key/value sequence, with many heads side by side.

    `output(concat_n(softmax(q_n k_n^T / sqrt(H)) v_n))`, where `q_n`, `k_n` and `v_n` are linear
    projections of the inputs for head n.

    Args:
        num_heads: N, heads of the query.
        key_dim: H, width of each query and key head; the query's width divided by N unless given.
        value_dim: width of each value head; as `key_dim` unless given.
        num_kv_heads: K, which divides N (grouped-query attention); N unless given.
        output_shape: width of the output; the query's width unless given.
        dropout: share of the attention weights that is zeroed in training, in [0, 1).
        use_bias: whether the projections have a bias.
        causal: whether a query sees only keys at its own position and before.
        window: a query sees keys less than this many positions away; None sees all.
        position: how positions enter the logits: a `RotaryEmbedding`, `ALiBi` or
            `RelativePositionBias`, or None.
        kernel: which of `keras_attn.ops.kernels` computes it; "auto" takes the best.
        kernel_initializer: of the projections' matrices.
        bias_initializer: of the projections' biases.
        seed: of the dropout; drawn anew unless given.

    Call arguments:
        query: float `[B, T, D]`.
        value: float `[B, S, Dv]`; None where the cache holds all keys and values already, such as
            those of an encoder's output.
        key: float `[B, S, Dk]`; the value unless given.
        query_mask: bool `[B, T]`; a query where it is False attends to nothing.
        value_mask: bool `[B, S]`; nobody attends to a key where it is False.
        key_mask: bool `[B, S]`, the same as `value_mask`; both must allow a key.
        attention_mask: bool `[T, S]`, `[B, T, S]` or `[B, N, T, S]`, True where a query may attend
            to a key.
        sequence_ids: a pair of int `[B, T]` and `[B, S]`: a query sees only keys of its own id.
        cache: `{"key": [B, K, L, H], "value": [B, K, L, H]}` of decoding, from
            `keras_attn.ops.cache`; the new keys are written into it at `cache_index`.
        cache_index: int or scalar tensor, position of the first query.
        return_attention_scores: whether to return the weights too.
        training: whether dropout acts.

    Masking: every mask that is given counts, together with Keras' own that travels with the
    tensors. A query that may attend to nothing gets zero weights and zero context, so its output is
    the output projection's bias. The query's mask goes on to the output.

    Returns:
        `[B, T, output width]`; then, if asked for, the weights, float32 `[B, N, T, S]`; then, if a
        cache came in, the cache.

    Raises:
        ValueError: heads that do not divide, a window that is not positive, dropout outside
            [0, 1), an unknown kernel, inputs or masks of the wrong rank or shape.

    Source: Vaswani et al. 2017, section 3.2.2.

    Example:
    >>> import keras
    >>> layer = MultiHeadCrossAttention(num_heads=2, key_dim=3)
    >>> layer(keras.ops.ones((5, 7, 12)), keras.ops.ones((5, 11, 13))).shape
    TensorShape([5, 7, 12])
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int | None = None,
        value_dim: int | None = None,
        *,
        num_kv_heads: int | None = None,
        output_shape: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        causal: bool = False,
        window: int | None = None,
        position: keras.layers.Layer | None = None,
        kernel: str = "auto",
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_heads <= 0 or num_heads % (num_kv_heads or num_heads):
            raise ValueError(
                "`num_heads` must be positive and a multiple of `num_kv_heads`, "
                f"got {num_heads} and {num_kv_heads}"
            )
        check_rate("dropout", dropout)
        check_window(window)
        kernels.check_name(kernel)
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.num_kv_heads = num_kv_heads
        self._output_width = output_shape
        self.dropout = dropout
        self.use_bias = use_bias
        self.causal = causal
        self.window = window
        self.position = positional(position, num_heads)
        self.kernel = kernel
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def build(self, query_shape: Any, value_shape: Any = None, key_shape: Any = None) -> None:
        """Create the four projections."""
        value_shape = value_shape or query_shape
        key_shape = key_shape or value_shape
        for name, shape in (("query", query_shape), ("value", value_shape), ("key", key_shape)):
            if len(shape) != 3:
                raise ValueError(
                    f"`{name}` must have shape [batch, length, width], got shape {tuple(shape)}"
                )
        width = query_shape[-1]
        if self.key_dim is None and width % self.num_heads:
            raise ValueError(
                "the query's width must be divisible by `num_heads` where `key_dim` is not given, "
                f"got width {width} and {self.num_heads} heads"
            )
        key_dim = self.key_dim or width // self.num_heads
        value_dim = self.value_dim or key_dim
        key_heads = self.num_kv_heads or self.num_heads
        self.query_projection = self._project("query", self.num_heads * key_dim, query_shape)
        self.key_projection = self._project("key", key_heads * key_dim, key_shape)
        self.value_projection = self._project("value", key_heads * value_dim, value_shape)
        self.output_projection = self._project(
            "output", self._output_width or width, (None, None, self.num_heads * value_dim)
        )
        if self.position is not None and not self.position.built:
            self.position.build()

    def call(
        self,
        query: Any,
        value: Any = None,
        key: Any = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        sequence_ids: Any = None,
        cache: dict | None = None,
        cache_index: Any = 0,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Any:
        """Attend from `query` to `key` and `value`."""
        query_ids, key_ids = sequence_ids if sequence_ids is not None else (None, None)
        mask = ops.AttentionMask(
            causal=self.causal,
            window=self.window,
            key_padding=both(value_mask, key_mask),
            query_padding=query_mask,
            query_sequence_ids=query_ids,
            key_sequence_ids=key_ids,
            dense=None if attention_mask is None else dense_mask(attention_mask),
            query_offset=cache_index,
        )
        q = _heads(self.query_projection(query), self.num_heads)  # [B, T, N, H]
        if hasattr(self.position, "rotate"):
            q = self.position.rotate(q, offset=cache_index)
        if value is None and cache is None:
            raise ValueError("`value` must be given where there is no `cache`, got None")
        if value is not None:
            k, v = self.keys_and_values(value, key, offset=cache_index)
            cache = None if cache is None else caches.append(cache, k, v, cache_index)
        if cache is not None:
            k, v = caches.read(cache)
        dropout = self.dropout if training else 0.0
        context = ops.attention(
            q,
            k,
            v,
            mask=mask,
            bias=self.position.bias() if hasattr(self.position, "bias") else None,
            dropout=dropout,
            seed=self.seed_generator.next() if dropout else None,
            return_scores=return_attention_scores,
            kernel=self.kernel,
        )
        context, *weights = context if return_attention_scores else (context,)
        outputs = (self.output_projection(_merge(context)), *weights)
        if cache is not None:
            outputs = (*outputs, cache)
        return outputs if len(outputs) > 1 else outputs[0]

    def keys_and_values(self, value: Any, key: Any = None, offset: Any = 0) -> tuple[Any, Any]:
        """The projected heads `[B, S, K, H]`, rotated from position `offset` on."""
        heads = self.num_kv_heads or self.num_heads
        k = _heads(self.key_projection(value if key is None else key), heads)
        v = _heads(self.value_projection(value), heads)
        if hasattr(self.position, "rotate"):
            k = self.position.rotate(k, offset=offset)
        return k, v

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """The query's mask; none for the weights."""
        return first_mask(previous_mask)

    def get_config(self) -> dict:
        """All constructor arguments."""
        return {
            **super().get_config(),
            **quantized_parts(self),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "num_kv_heads": self.num_kv_heads,
            "output_shape": self._output_width,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "causal": self.causal,
            "window": self.window,
            "position": keras.saving.serialize_keras_object(self.position),
            "kernel": self.kernel,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "seed": self.seed,
        }

    def _project(self, name: str, units: int, input_shape: Any) -> Projection:
        layer = Projection(
            units,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            bias_initializer=self.bias_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build(input_shape)
        return layer


def _heads(inputs: Any, heads: int) -> Any:
    batch, length, width = keras.ops.shape(inputs)
    return keras.ops.reshape(inputs, (batch, length, heads, width // heads))


def _merge(context: Any) -> Any:
    batch, length, heads, width = keras.ops.shape(context)
    return keras.ops.reshape(context, (batch, length, heads * width))
