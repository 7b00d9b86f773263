"""A recurrent decoder that attends to a memory.

Letters: B batch, T steps, S memory length, Di input width, Dm memory width, Da output width.
"""

from typing import Any

import keras
from keras import ops

from keras_attn import backend
from keras_attn._checks import check_not_empty, check_shape, to_mask
from keras_attn._keras import deserialize_shared, register, serialize_shared
from keras_attn._typing import Config, Nested, Shape, Tensor
from keras_attn.layers.attention.attention_decoder_cell import AttentionDecoderCell
from keras_attn.layers.masking import without_hidden
from keras_attn.ops.random import SeedGenerator

_MEMORY = 3  # states at the end that no step changes: memory, keys, memory_mask


@register()
class AttentionDecoder(keras.layers.Layer):
    """Run an AttentionDecoderCell over a sequence, with a memory to attend to.

    It computes the same as `keras.layers.RNN(cell, return_sequences=True)`, but takes the memory as
    a call argument, projects it once, and returns the attention weights on request.

    Args:
        cell: an AttentionDecoderCell.

    Call arguments:
        inputs: float `[B, T, Di]`.
        memory: float `[B, S, Dm]`.
        initial_state: state or nested states of the wrapped cell, each `[B, width]`; defaults to
            zeros.
        inputs_mask: bool `[B, T]`; a step where it is False changes no state and repeats the last
            output.
        memory_mask: bool `[B, S]`; no query attends to a position where it is False.
        return_attention_scores: whether to return the attention weights too.
        training: whether to apply dropout.

    Masking: both masks apply, and Keras fills them in from its own. The inputs' mask is propagated
    to the output.

    Returns:
        `[B, T, Da]`; then, if asked for, the attention weights, float32 `[B, T, S]`, zero at masked
        steps.

    Raises:
        ValueError: a cell of another kind, inputs or memory that are not of rank 3, or of
            length 0.

    Source: Bahdanau et al. 2015, section 3.1; Luong et al. 2015, section 3.

    Example:
    >>> import keras
    >>> from keras_attn.layers import AttentionDecoderCell, LuongAttention
    >>> cell = keras.layers.GRUCell(3)
    >>> cell = AttentionDecoderCell(cell, LuongAttention(), query_state="current")
    >>> decoder = AttentionDecoder(cell)
    >>> decoder(keras.ops.ones((2, 4, 7)), keras.ops.ones((2, 11, 13))).shape
    TensorShape([2, 4, 3])
    """

    def __init__(self, cell: AttentionDecoderCell, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        cell = deserialize_shared(cell)
        if not isinstance(cell, AttentionDecoderCell):
            raise ValueError(f"`cell` must be an AttentionDecoderCell, got {cell!r}")
        self.cell = cell
        self.seed_generator = SeedGenerator(getattr(cell.attention, "seed", None))
        self.supports_masking = True

    def build(self, inputs_shape: Shape, memory_shape: Shape) -> None:
        """Build the cell."""
        for name, shape in (("inputs", inputs_shape), ("memory", memory_shape)):
            check_shape(name, shape, batch=None, length=None, width=None)
        if not self.cell.built:
            self.cell.build((inputs_shape[0], inputs_shape[-1]), memory_shape)

    def call(
        self,
        inputs: Tensor,
        memory: Tensor,
        initial_state: Nested | None = None,
        inputs_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool = False,
    ) -> Nested:
        """Decode all steps of `inputs`."""
        inputs_mask, memory_mask = self._checked(inputs, memory, inputs_mask, memory_mask)
        states = self.cell.get_initial_state(
            memory=memory, memory_mask=memory_mask, cell=initial_state
        )
        states, memory_states = states[:-_MEMORY], states[-_MEMORY:]
        if inputs_mask is None:
            inputs_mask = ops.ones_like(inputs[:, :, 0], dtype="bool")
        inputs = without_hidden(inputs, inputs_mask)
        seed = None
        if training:
            # The body of a loop must not draw seeds: the generator's state would leak out of the
            # graph.
            seed = self.seed_generator.next()
            self.cell.get_dropout_mask(inputs[:, 0])

        def step(row: Tensor, states: list) -> tuple[tuple, list]:
            row_inputs, active = row[:, :-1], row[:, -1:] > 0
            _, after = self.cell(
                row_inputs, [*states, *memory_states], seed=seed, training=training
            )
            after = [
                ops.where(active, ops.cast(new, old.dtype), old)
                for new, old in zip(after[:-_MEMORY], states, strict=True)
            ]
            return (after[0], after[-2]), after

        # The loop takes one tensor, so the mask is its last column.
        column = ops.cast(inputs_mask, inputs.dtype)[:, :, None]
        rows = ops.concatenate([inputs, column], axis=-1)  # [B, T, Di + 1]
        outputs, weights = backend.recur(step, rows, states)
        self.cell.reset_dropout_mask()
        if not return_attention_scores:
            return outputs
        weights = ops.cast(weights, "float32")  # [B, T, S]
        return outputs, ops.where(inputs_mask[:, :, None], weights, 0.0)

    def compute_output_shape(self, inputs_shape: Shape, memory_shape: Shape) -> Shape:
        """Shape of the output without the weights."""
        return (*inputs_shape[:2], self.cell.output_size)

    def compute_output_spec(
        self,
        inputs: Tensor,
        memory: Tensor,
        initial_state: Nested | None = None,
        inputs_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool = False,
    ) -> Nested:
        """Symbolic output, and symbolic weights if they are asked for."""
        self._checked(inputs, memory, inputs_mask, memory_mask)
        shape = self.compute_output_shape(inputs.shape, memory.shape)
        outputs = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return outputs
        weights_shape = (*inputs.shape[:2], memory.shape[1])
        return outputs, keras.KerasTensor(weights_shape, dtype="float32")

    def _checked(
        self, inputs: Tensor, memory: Tensor, inputs_mask: Tensor | None, memory_mask: Tensor | None
    ) -> tuple:
        """The two masks, with checked shapes."""
        check_shape("inputs", inputs.shape, batch=None, length=None, width=None)
        batch, length, _ = inputs.shape
        check_shape("memory", memory.shape, batch=batch, length=None, width=None)
        check_not_empty("inputs", inputs.shape)
        check_not_empty("memory", memory.shape)
        return (
            to_mask("inputs_mask", inputs_mask, batch=batch, length=length),
            to_mask("memory_mask", memory_mask, batch=batch, length=memory.shape[1]),
        )

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {**super().get_config(), "cell": serialize_shared(self.cell)}
