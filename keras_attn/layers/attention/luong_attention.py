"""Multiplicative attention, global or local, combined with the query.

Letters: B batch, T query length, S memory length, Dq query width, Dm memory width, U units.
"""

import warnings
from typing import Any

import keras
from keras import ops

from keras_attn._checks import check_choice, check_count, optional_count
from keras_attn._keras import deserialize_shared, register, serialize_shared
from keras_attn._typing import Config, Initializer, Shape, Size, Tensor
from keras_attn.layers.attention.memory_attention import MemoryAttention
from keras_attn.ops import scores, selection

_LOCALITIES = ("global", "local_m", "local_p")
_COMBINATIONS = ("projection", "concatenate", "sum")


@register()
class LuongAttention(MemoryAttention):
    """Attend to a memory, and combine the context with the query.

    `c = sum_s a_s m_s`, `a = softmax(score(h, m))`, output `tanh(W [c; h])` for a query h.
    "local_m" attends to the positions at most `window` away from the query's own position;
    "local_p" predicts the centre, `p = S sigmoid(v . tanh(W h))`, and multiplies a by a Gaussian
    around p with `sigma = window / 2`.

    Args:
        units: width of the output of combine="projection"; defaults to the query's width.
        score: "dot", "scaled_dot", "cosine", "general", "additive", "concat" or "location".
        locality: "global", "local_m" or "local_p".
        window: D, how many positions "local_m" and "local_p" attend to on each side, so `2 D + 1`,
            as in the paper. (`AttentionMask(window=w)` has w - 1 positions on each side.)
        combine: "projection" (`tanh(W [c; h])`), "concatenate" (`[c; h]`), "sum" (`c + h`), or a
            layer that is called with the list `[c, h]`.
        max_length: the longest memory; only needed by the score "location".
        kernel_initializer: initializer of the weights.

    Call arguments:
        query: float `[B, T, Dq]`.
        memory: float `[B, S, Dm]`.
        keys: float `[B, S, Dm]`, the memory as the score reads it; defaults to `memory`.
        query_mask: bool `[B, T]`; a query where it is False attends to nothing.
        memory_mask: bool `[B, S]`; no query attends to a position where it is False.
        query_offset: position of the first query, a number or a tensor broadcastable to `[B, T]`;
            "local_m" needs it when a decoder passes its queries one by one.
        seed: ignored here; every attention over a memory accepts it.
        return_attention_scores: whether to return the attention weights too.
        training: ignored here.

    Masking: both masks apply, and Keras fills them in from its own; padding does not move the
    centre of "local_p". A query that may attend to nothing gets zero weights and zero context.
    The query's mask is propagated to the output.

    Returns:
        `[B, T, units]`, or the shape that `combine` gives; then, if asked for, the attention
        weights, float32 `[B, T, S]`.

    Raises:
        ValueError: an unknown score, locality or combination, a window that is not positive,
            "location" without `max_length`, widths that the score or "sum" cannot join, inputs
            that are not of rank 3.

    Source: Luong et al. 2015, section 3.

    Example:
    >>> import keras
    >>> layer = LuongAttention(units=3, locality="local_p", window=2)
    >>> layer(keras.ops.ones((2, 5, 7)), keras.ops.ones((2, 11, 13))).shape
    TensorShape([2, 5, 3])
    """

    def __init__(
        self,
        units: int | None = None,
        score: str = "general",
        locality: str = "global",
        window: int = 10,
        combine: str | keras.layers.Layer = "projection",
        max_length: int | None = None,
        kernel_initializer: Initializer = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        scores.get(score)
        check_choice("locality", locality, _LOCALITIES)
        combine = deserialize_shared(combine)
        if combine == "concat":  # elsewhere "concat" means no projection
            warnings.warn(
                '`combine="concat"` is deprecated: use "projection"', DeprecationWarning, 2
            )
            combine = "projection"
        if not isinstance(combine, keras.layers.Layer) and combine not in _COMBINATIONS:
            raise ValueError(
                f"`combine` must be a layer or one of {', '.join(_COMBINATIONS)}, got {combine!r}"
            )
        self.units = optional_count("units", units)
        self.score = score
        self.locality = locality
        self.window = check_count("window", window)
        self.combine = combine
        self.max_length = optional_count("max_length", max_length)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    @classmethod
    def from_config(cls, config: Config) -> "LuongAttention":
        """The layer of a configuration; version 0.1.0 wrote "concat" for "projection"."""
        if config.get("combine") == "concat":
            config = {**config, "combine": "projection"}
        return super().from_config(config)

    def build(self, query_shape: Shape, memory_shape: Shape) -> None:
        """Create the weights of the score, of the centre, and of the combination."""
        super().build(query_shape, memory_shape)
        width, memory_width = query_shape[-1], memory_shape[-1]
        self._build_score(query_shape, memory_shape, max_length=self.max_length)
        if self.locality == "local_p":
            initializer = self.kernel_initializer
            self.center_kernel = self._weight("center_kernel", (width, width), initializer)
            self.center_scale = self._weight("center_scale", (width,), initializer)
        if self.combine == "sum" and width != memory_width:
            raise ValueError(
                '`query` and `memory` must have the same width for combine="sum", '
                f"got {width} and {memory_width}"
            )
        if self.combine == "projection":
            shape = (memory_width + width, self.units or width)
            self.output_kernel = self._weight("output_kernel", shape, self.kernel_initializer)
        elif isinstance(self.combine, keras.layers.Layer) and not self.combine.built:
            self.combine.build([(*query_shape[:2], memory_width), query_shape])

    def select(
        self, logits: Tensor, mask: Tensor | None, query: Tensor, query_offset: Size
    ) -> Tensor:
        """Soft weights over the whole memory or a part of it."""
        if self.locality == "global":
            return selection.soft(logits, mask)
        if self.locality == "local_m":
            return selection.local_monotonic(logits, self.window, mask, query_offset)
        length = ops.shape(logits)[-1]
        if mask is not None:
            length = _real_length(ops.broadcast_to(mask, ops.shape(logits)))
        center = selection.predicted_center(query, self.center_kernel, self.center_scale, length)
        return selection.local_predictive(logits, center, self.window, mask)

    def combine_context(self, context: Tensor, query: Tensor) -> Tensor:
        """Join context and query as `combine` says."""
        if self.combine == "sum":
            return context + query
        if isinstance(self.combine, keras.layers.Layer):
            return self.combine([context, query])
        joined = ops.concatenate([context, query], axis=-1)  # [B, T, Dm + Dq]
        if self.combine == "concatenate":
            return joined
        return ops.tanh(scores.project(joined, self.output_kernel))

    def compute_output_shape(self, query_shape: Shape, memory_shape: Shape) -> Shape:
        """Shape of the output without the weights."""
        context_shape = super().compute_output_shape(query_shape, memory_shape)
        if isinstance(self.combine, keras.layers.Layer):
            return self.combine.compute_output_shape([context_shape, tuple(query_shape)])
        width = query_shape[-1]
        widths = {"projection": self.units or width, "concatenate": context_shape[-1] + width}
        return (*query_shape[:2], widths.get(self.combine, width))

    def get_config(self) -> Config:
        """All constructor arguments."""
        combine = self.combine
        if isinstance(combine, keras.layers.Layer):
            combine = serialize_shared(combine)
        return {
            **super().get_config(),
            "units": self.units,
            "score": self.score,
            "locality": self.locality,
            "window": self.window,
            "combine": combine,
            "max_length": self.max_length,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def _real_length(mask: Tensor) -> Tensor:
    # The mask is [B, T, S]; the row of a padded query is empty, the others are equal.
    return ops.sum(ops.cast(ops.any(mask, axis=1), "int32"), axis=-1)  # [B]
