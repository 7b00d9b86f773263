"""What the attention layers over a memory share: score, select, average, combine.

Letters: B batch, T query length, S memory length, Dq query width, Dm memory width.
"""

from typing import Any

import keras
from keras import ops

from keras_attn._checks import check_shape, to_mask
from keras_attn._typing import Initializer, Nested, Shape, Size, Tensor
from keras_attn.layers.masking import pair_mask, without_hidden
from keras_attn.layers.sublayers import CompositeLayer
from keras_attn.ops import scores, selection
from keras_attn.ops.numerics import wide


class MemoryAttention(CompositeLayer):
    """Base of BahdanauAttention, LuongAttention and HardAttention.

    A subclass defines how a query is scored (`logits`), how keys are selected (`select`) and how
    the output is made from the context (`combine_context`).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, query_shape: Shape, memory_shape: Shape) -> None:
        """Check the ranks; subclasses create their weights."""
        for name, shape in (("query", query_shape), ("memory", memory_shape)):
            check_shape(name, shape, batch=None, length=None, width=None)
        self._widths = query_shape[-1], memory_shape[-1]

    def call(
        self,
        query: Tensor,
        memory: Tensor,
        keys: Tensor | None = None,
        query_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        query_offset: Size = 0,
        seed: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Nested:
        """Attend from `query` to `memory`."""
        query, memory, keys, mask = self._visible(query, memory, keys, query_mask, memory_mask)
        logits = self.logits(query, keys)
        weights = self.select(logits, mask, query, query_offset)  # [B, T, S]
        outputs = self.combine_context(weigh(weights, memory), query)
        return (outputs, weights) if return_attention_scores else outputs

    def _visible(
        self,
        query: Tensor,
        memory: Tensor,
        keys: Tensor | None,
        query_mask: Tensor | None,
        memory_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Query, memory and keys, zeroed where masked, and the mask of the pairs."""
        query_mask, memory_mask = self._checked(query, memory, query_mask, memory_mask)
        memory = without_hidden(memory, memory_mask)
        keys = self.project_memory(memory) if keys is None else without_hidden(keys, memory_mask)
        query = without_hidden(query, query_mask)
        return query, memory, keys, pair_mask(query_mask, memory_mask)

    def project_memory(self, memory: Tensor) -> Tensor:
        """The part of the score that does not depend on queries, computed once for all of them."""
        return memory

    def logits(self, query: Tensor, keys: Tensor) -> Tensor:
        """Scores `[B, T, S]`."""
        weights = {name: getattr(self, name) for name in self._score_weights}
        return scores.get(self.score)(query, keys, **weights)

    def select(
        self, logits: Tensor, mask: Tensor | None, query: Tensor, query_offset: Size
    ) -> Tensor:
        """Weights `[B, T, S]`."""
        return selection.soft(logits, mask)

    def combine_context(self, context: Tensor, query: Tensor) -> Tensor:
        """The output, from the context `[B, T, Dm]` and the query `[B, T, Dq]`."""
        return context

    def compute_output_shape(self, query_shape: Shape, memory_shape: Shape) -> Shape:
        """Shape of the output without the weights."""
        return (*query_shape[:2], memory_shape[-1])

    def compute_output_spec(
        self,
        query: Tensor,
        memory: Tensor,
        keys: Tensor | None = None,
        query_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        query_offset: Size = 0,
        seed: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Nested:
        """Symbolic output, and symbolic weights if they are asked for."""
        self._checked(query, memory, query_mask, memory_mask)
        shape = self.compute_output_shape(query.shape, memory.shape)
        outputs = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return outputs
        weights_shape = (*query.shape[:2], memory.shape[1])
        dtype = wide(self.compute_dtype)
        return outputs, keras.KerasTensor(weights_shape, dtype=dtype)

    def _checked(
        self, query: Tensor, memory: Tensor, query_mask: Tensor | None, memory_mask: Tensor | None
    ) -> tuple:
        """The two masks, after a check of all shapes."""
        batch, (width, memory_width) = query.shape[0], self._widths
        check_shape("query", query.shape, batch=None, length=None, width=width)
        check_shape("memory", memory.shape, batch=batch, length=None, width=memory_width)
        return (
            to_mask("query_mask", query_mask, batch=batch, length=query.shape[1]),
            to_mask("memory_mask", memory_mask, batch=batch, length=memory.shape[1]),
        )

    def _build_score(self, query_shape: Shape, memory_shape: Shape, **sizes: Size | None) -> None:
        shapes = scores.weight_shapes(self.score, query_shape[-1], memory_shape[-1], **sizes)
        self._score_weights = tuple(shapes)
        for name, shape in shapes.items():
            initializer = "zeros" if name == "bias" else self.kernel_initializer
            setattr(self, name, self._weight(name, shape, initializer))

    def _weight(self, name: str, shape: tuple[int, ...], initializer: Initializer) -> Tensor:
        # A clone for each weight: a seeded initializer would repeat its numbers.
        if isinstance(initializer, keras.initializers.Initializer):
            initializer = initializer.clone()
        return self.add_weight(name=name, shape=shape, initializer=initializer)


def weigh(weights: Tensor, memory: Tensor) -> Tensor:
    """Weighted sums `[B, T, Dm]` of the memory."""
    # Not `ops.matmul`, which rounds float64 to float32 on torch.
    return ops.cast(weights, memory.dtype) @ memory
