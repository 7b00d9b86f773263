"""Additive attention with two projections, as in the first attention model.

Letters: B batch, T query length, S memory length, Dq query width, Dm memory width, U units.
"""

from typing import Any

import keras

from keras_attn._checks import check_count
from keras_attn._keras import register
from keras_attn._typing import Config, Initializer, Shape, Tensor
from keras_attn.layers.attention.memory_attention import MemoryAttention
from keras_attn.layers.sublayers import Projection
from keras_attn.ops import scores


@register()
class BahdanauAttention(MemoryAttention):
    """Attend to a memory with a score from a small network for each query and position.

    `softmax_s(v . tanh(W1 q + W2 m_s + b))` are the weights of the `m_s`; the widths of queries and
    memory may differ.

    Args:
        units: U, width of the network.
        kernel_initializer: initializer of W1, W2 and v.

    Call arguments:
        query: float `[B, T, Dq]`.
        memory: float `[B, S, Dm]`.
        keys: float `[B, S, U]`; defaults to `project_memory(memory)`.
        query_mask: bool `[B, T]`; a query where it is False attends to nothing.
        memory_mask: bool `[B, S]`; no query attends to a position where it is False.
        query_offset, seed: ignored here; every attention over a memory accepts them.
        return_attention_scores: whether to return the attention weights too.
        training: ignored here.

    Masking: both masks apply, and Keras fills them in from its own. A query that may attend to
    nothing gets zero weights and zero context. The query's mask is propagated to the output.

    Returns:
        Context `[B, T, Dm]`; then, if asked for, the attention weights, float32 `[B, T, S]`.

    Raises:
        ValueError: units that are not positive, inputs that are not of rank 3.

    Source: Bahdanau et al. 2015, section 3.1 and appendix A.1.2.

    Example:
    >>> import keras
    >>> layer = BahdanauAttention(units=3)
    >>> layer(keras.ops.ones((2, 5, 7)), keras.ops.ones((2, 11, 13))).shape
    TensorShape([2, 5, 13])
    """

    def __init__(
        self, units: int, kernel_initializer: Initializer = "glorot_uniform", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.units = check_count("units", units)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, query_shape: Shape, memory_shape: Shape) -> None:
        """Create W1, W2, v and b."""
        super().build(query_shape, memory_shape)
        shape = (query_shape[-1], self.units)
        self.query_kernel = self._weight("query_kernel", shape, self.kernel_initializer)
        # A separate layer, so that a functional model can project the memory outside the loop.
        self.key_projection = Projection(
            self.units,
            use_bias=False,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name="key_projection",
        )
        self.key_projection.build(memory_shape)
        self.scale = self._weight("scale", (self.units,), self.kernel_initializer)
        self.bias = self._weight("bias", (self.units,), "zeros")

    def project_memory(self, memory: Tensor) -> Tensor:
        """W2 m, `[B, S, U]`."""
        return self.key_projection(memory)

    def logits(self, query: Tensor, keys: Tensor) -> Tensor:
        """Additive scores `[B, T, S]`."""
        return scores.additive(query, keys, self.query_kernel, None, self.scale, self.bias)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "units": self.units,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
