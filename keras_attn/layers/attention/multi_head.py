"""What self-attention and cross-attention share: the arguments, the projections, the call.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head width,
D model width.
"""

from typing import Any

import keras

from keras_attn import backend, ops
from keras_attn._checks import check_choice, check_count, check_positive, check_rate, optional_count
from keras_attn._keras import serialize_shared
from keras_attn._typing import Cache, Config, Initializer, Nested, Shape, Size, Tensor
from keras_attn.layers.masking import first_mask
from keras_attn.layers.sublayers import (
    NORMS,
    CompositeLayer,
    Projection,
    bias_of,
    make_norm,
    rotation_of,
    to_position,
)
from keras_attn.ops import cache as caches
from keras_attn.ops import kernels
from keras_attn.ops.masks import AttentionMask, Window, check_window
from keras_attn.ops.numerics import wide
from keras_attn.ops.random import SeedGenerator


class MultiHead(CompositeLayer):
    """The base of `MultiHeadSelfAttention` and `MultiHeadCrossAttention`.

    A subclass builds the projections for its inputs and turns its masks into one.
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
        window: Window = None,
        position: keras.layers.Layer | None = None,
        logits_soft_cap: float | None = None,
        query_key_norm: str | None = None,
        norm_epsilon: float = 1e-6,
        use_sink: bool = False,
        kernel: str = "auto",
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        num_heads = check_count("num_heads", num_heads)
        num_kv_heads = optional_count("num_kv_heads", num_kv_heads)
        if num_heads % (num_kv_heads or num_heads):
            raise ValueError(
                f"`num_heads` must be a multiple of `num_kv_heads`, got {num_heads} and "
                f"{num_kv_heads}"
            )
        check_rate("dropout", dropout)
        kernels.check_name(kernel)
        if logits_soft_cap is not None:
            check_positive("logits_soft_cap", logits_soft_cap)
        check_positive("norm_epsilon", norm_epsilon)
        if query_key_norm is not None:
            check_choice("query_key_norm", query_key_norm, NORMS)
        self.num_heads = num_heads
        self.key_dim = optional_count("key_dim", key_dim)
        self.value_dim = optional_count("value_dim", value_dim)
        self.num_kv_heads = num_kv_heads
        self._output_width = optional_count("output_shape", output_shape)
        self.dropout = dropout
        self.use_bias = use_bias
        self.causal = causal
        self.window = check_window(window)
        self.position = to_position(position, num_heads)
        self.logits_soft_cap = logits_soft_cap
        self.query_key_norm = query_key_norm
        self.norm_epsilon = norm_epsilon
        self.use_sink = use_sink
        self.kernel = kernel
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.seed = seed
        self.seed_generator = SeedGenerator(seed)
        self.supports_masking = True

    def keys_and_values(
        self,
        value: Tensor,
        key: Tensor | None = None,
        offset: Size = 0,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The projected key and value heads `[B, S, K, H]`; keys normalized and rotated."""
        heads = self.num_kv_heads or self.num_heads
        k = _split_heads(self.key_projection(value if key is None else key), heads)
        k = k if self.query_key_norm is None else self.key_norm(k)
        v = _split_heads(self.value_projection(value), heads)
        return self._rotated(k, offset, positions), v

    def compute_mask(self, inputs: Tensor, previous_mask: Nested | None = None) -> Tensor | None:
        """The query's mask; none for the weights."""
        return first_mask(previous_mask)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "num_kv_heads": self.num_kv_heads,
            "output_shape": self._output_width,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "causal": self.causal,
            "window": self.window,
            "position": serialize_shared(self.position),
            "logits_soft_cap": self.logits_soft_cap,
            "query_key_norm": self.query_key_norm,
            "norm_epsilon": self.norm_epsilon,
            "use_sink": self.use_sink,
            "kernel": self.kernel,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "seed": self.seed,
        }

    def _build_projections(self, query_shape: Shape, value_shape: Shape, key_shape: Shape) -> None:
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
        if self.query_key_norm is not None:
            self.query_norm = self._norm("query_norm", (None, None, self.num_heads, key_dim))
            self.key_norm = self._norm("key_norm", (None, None, key_heads, key_dim))
        if self.use_sink:
            self.sink = self.add_weight(
                name="sink", shape=(self.num_heads,), initializer="zeros", autocast=False
            )
        if self.position is not None and not self.position.built:
            self.position.build((None, None, self.num_heads, key_dim))

    def _attend(
        self,
        query: Tensor,
        value: Tensor | None,
        key: Tensor,
        mask: AttentionMask,
        cache: Cache,
        cache_index: Size,
        return_attention_scores: bool,
        training: bool | None,
        positions: Tensor | None = None,
    ) -> Nested:
        """The call of both layers: project, append to the cache, attend, project.

        Args:
            query: float `[B, T, D]`.
            value: float `[B, S, D]`, what the new keys and values are projected from; None if the
                cache already holds all of them.
            key: float `[B, S, D]`, what the keys are projected from; None for `value`.
            mask: all masks of the call as one.
            cache: keys and values of earlier calls, or None.
            cache_index: position of the first query, and of the first new key in the cache.
            return_attention_scores: whether to return the weights too.
            training: whether dropout applies.
            positions: int `[T]` or `[B, T]` of a RotaryEmbedding; defaults to `cache_index` and on.

        Returns:
            The output `[B, T, output width]`, then, if asked for, the weights `[B, N, T, S]` (S is
            the length of the cache, where there is one), then the cache, where one was given.
        """
        q = _split_heads(self.query_projection(query), self.num_heads)  # [B, T, N, H]
        q = q if self.query_key_norm is None else self.query_norm(q)
        q = self._rotated(q, cache_index, positions)
        if value is None:
            k, v = caches.read(cache)
        else:
            k, v = self.keys_and_values(value, key, cache_index, positions)
            if cache is not None:
                cache = caches.append(cache, k, v, cache_index)
                k, v = caches.read(cache)
        dropout = self.dropout if training else 0.0
        context = ops.attention(
            q,
            k,
            v,
            mask=mask,
            bias=bias_of(self.position),
            logits_soft_cap=self.logits_soft_cap,
            sink=self.sink if self.use_sink else None,
            dropout=dropout,
            seed=self.seed_generator.next() if dropout else None,
            return_scores=return_attention_scores,
            kernel=self.kernel,
        )
        context, *weights = context if return_attention_scores else (context,)
        outputs = (self.output_projection(_merge_heads(context)), *weights)
        if cache is not None:
            outputs = (*outputs, cache)
        return outputs if len(outputs) > 1 else outputs[0]

    def _rotated(self, heads: Tensor, offset: Size, positions: Tensor | None) -> Tensor:
        """Queries or keys `[B, T, N, H]` turned by their positions, which count from `offset`."""
        rotate = rotation_of(self.position)
        if rotate is not None:
            if positions is None:
                return rotate(heads, offset=offset)
            return rotate(heads, positions=positions)
        if positions is not None:
            raise ValueError(
                "`positions` needs a layer whose `position` rotates, as a RotaryEmbedding, got "
                f"{self.position!r}"
            )
        return heads

    def _output_spec(
        self, query: Tensor, key_length: int | None, cache: dict | None, return_scores: bool
    ) -> Nested:
        """What `_attend` returns, without running it."""
        batch, length, width = query.shape
        outputs: list[Nested] = [
            keras.KerasTensor((batch, length, self._output_width or width), self.compute_dtype)
        ]
        if return_scores:
            dtype = wide(self.compute_dtype)
            outputs.append(keras.KerasTensor((batch, self.num_heads, length, key_length), dtype))
        if cache is not None:
            outputs.append({k: keras.KerasTensor(v.shape, v.dtype) for k, v in cache.items()})
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    def _project(self, name: str, units: int, input_shape: Shape) -> Projection:
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

    def _norm(self, name: str, shape: tuple) -> keras.layers.Layer:
        """A norm over the width of a head; the heads share its weights."""
        kind: Any = self.query_key_norm
        norm = make_norm(kind, self.norm_epsilon, dtype=self.dtype_policy, name=name)
        norm.build(shape)
        return norm


def _split_heads(inputs: Tensor, heads: int) -> Tensor:
    def split_heads(inputs: Tensor) -> Tensor:
        batch, length, width = keras.ops.shape(inputs)
        return keras.ops.reshape(inputs, (batch, length, heads, width // heads))

    return backend.traced_once(split_heads, ("split_heads", heads), inputs)


def _merge_heads(context: Tensor) -> Tensor:
    def merge_heads(context: Tensor) -> Tensor:
        batch, length, heads, width = keras.ops.shape(context)
        return keras.ops.reshape(context, (batch, length, heads * width))

    return backend.traced_once(merge_heads, "merge_heads", context)
