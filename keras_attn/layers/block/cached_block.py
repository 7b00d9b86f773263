"""A block with its cache, as version 0.1.0 used it in decoding steps; deprecated.

Letters: B batch, T new length, S context length, D model width.
"""

from typing import Any

import keras

from keras_attn._keras import register
from keras_attn._typing import Nested, Shape, Size, Tensor


@register()
class CachedBlock(keras.layers.Wrapper):
    """A block of a trained model as a decoding step calls it, with the block's own weights.

    In Keras a layer can be part of several functional models only if it returns the same number of
    tensors in each; this wrapper also returns the cache.

    Args:
        layer: a `TransformerEncoderBlock` with `causal=True` or a `TransformerDecoderBlock`.

    Call arguments:
        inputs: float `[B, T, D]`, the new tokens.
        cache: the cache of the block: `{"key", "value"}` or `{"self", "context"}`.
        index: int scalar, position of the first input.
        context_mask: bool `[B, S]`, False at the context's padding.

    Masking: a masked position of the context is never attended to.

    Returns:
        `[B, T, D]` and the cache.

    Example:
    >>> import keras
    >>> from keras_attn.layers import TransformerEncoderBlock
    >>> from keras_attn.ops import cache
    >>> block = CachedBlock(TransformerEncoderBlock(2, 16, causal=True))
    >>> outputs, _ = block(keras.ops.ones((3, 1, 8)), cache.create(3, 5, 2, 4), index=0)
    >>> outputs.shape
    TensorShape([3, 1, 8])
    """

    # pyrefly: ignore[bad-override]
    def build(self, inputs_shape: Shape, **_: Any) -> None:
        """Build the block if it is not built."""
        super().build(inputs_shape)

    def call(
        self, inputs: Tensor, cache: dict, index: Size, context_mask: Tensor | None = None
    ) -> Nested:
        """Run the block without dropout."""
        masks = {} if context_mask is None else {"context_mask": context_mask}
        return self.layer(inputs, cache=cache, cache_index=index, training=False, **masks)

    def compute_output_shape(self, inputs_shape: Shape) -> Shape:
        """Shape of the output without the cache."""
        return tuple(inputs_shape)

    def compute_output_spec(
        self, inputs: Tensor, cache: dict, index: Size, context_mask: Tensor | None = None
    ) -> Nested:
        """The symbolic outputs of the block."""
        masks = {} if context_mask is None else {"context_mask": context_mask}
        return self.layer.compute_output_spec(inputs, cache=cache, **masks)
