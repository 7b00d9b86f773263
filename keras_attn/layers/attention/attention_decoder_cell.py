"""A recurrent cell that attends to a memory at every step.

Letters: B batch, T steps, S memory length, Di input width, Dm memory width, Da width of the
attention's output.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_attn._checks import check_choice, renamed, to_mask
from keras_attn._keras import (
    DropoutRNNCell,
    deserialize_shared,
    register,
    serialize_shared,
    takes_training,
)
from keras_attn._typing import Config, Nested, Shape, Size, Tensor
from keras_attn.layers.masking import without_hidden

_QUERY_STATES = ("previous", "current")


@register()
class AttentionDecoderCell(keras.layers.Layer, DropoutRNNCell):
    """Wrap a recurrent cell so that it attends to a memory at every step.

    With `query_state="previous"` (Bahdanau) the query is the state before the step, and the context
    enters the step: `c = attention(h_before)`, `h = cell([x; c])`, output `[h; c]`. With
    `query_state="current"` (Luong) the query is the state after the step, and the attention's
    output enters the next step (input feeding): `h = cell([x; a_before])`, output
    `a = attention(h)`.

    The memory is part of the states and is returned unchanged, so the cell holds no tensor and runs
    in `keras.layers.RNN` like any cell; `AttentionDecoder` is the layer that does this and can
    return the attention weights.

    Args:
        cell: any Keras recurrent cell: GRUCell, LSTMCell, StackedRNNCells, one of your own. The
            first state of a cell (of the last cell in a stack) is used as its output.
        attention: BahdanauAttention, LuongAttention or HardAttention.
        query_state: "previous" or "current": which state of the cell is the query.
        input_feeding: whether the attention's output is concatenated to the cell's input.

    Call arguments:
        inputs: float `[B, Di]`.
        states: list of tensors in the order of `state_names`, from `get_initial_state`.
        seed: integer tensor `[2]` for an attention that samples; the position is added to it.
        training: whether to apply dropout.

    Masking: a memory position whose mask is False is never attended to. With a mask of the inputs,
    `keras.layers.RNN` must be unrolled on JAX, since its loop allows no states of rank 3;
    `AttentionDecoder` has no such limit.

    Returns:
        Output `[B, Da]` ("previous": `[B, cell width + Da]`) and the list of states.

    Raises:
        ValueError: an unknown `query_state`, a cell without a `state_size`, a build without the
            shape of the memory.

    Source: Bahdanau et al. 2015, section 3.1; Luong et al. 2015, sections 3 and 3.3.

    Example:
    >>> import keras
    >>> from keras_attn.layers import BahdanauAttention
    >>> cell = AttentionDecoderCell(keras.layers.GRUCell(3), BahdanauAttention(5))
    >>> cell.build((None, 7), (None, None, 13))
    >>> states = cell.get_initial_state(memory=keras.ops.ones((2, 11, 13)))
    >>> rnn = keras.layers.RNN(cell, return_sequences=True)
    >>> rnn(keras.ops.ones((2, 4, 7)), initial_state=states).shape
    TensorShape([2, 4, 16])
    """

    def __init__(
        self,
        cell: keras.layers.Layer,
        attention: keras.layers.Layer,
        query_state: str = "previous",
        input_feeding: bool = True,
        **kwargs: Any,
    ) -> None:
        query_state = renamed(kwargs, "query", "query_state", query_state)
        super().__init__(**kwargs)
        self.supports_masking = True
        cell = deserialize_shared(cell)
        if not hasattr(cell, "state_size") or not callable(cell):
            raise ValueError(f"`cell` must be a recurrent cell with a `state_size`, got {cell!r}")
        check_choice("query_state", query_state, _QUERY_STATES)
        self.cell: keras.layers.Layer = cell
        self.attention = deserialize_shared(attention)
        self.query_state = query_state
        self.input_feeding = input_feeding

    @classmethod
    def from_config(cls, config: Config) -> "AttentionDecoderCell":
        """The cell of a configuration; version 0.1.0 wrote `query` for `query_state`."""
        names = {"query": "query_state"}
        return super().from_config({names.get(key, key): value for key, value in config.items()})

    @property
    def query(self) -> str:
        """The earlier name of `query_state`; deprecated."""
        warnings.warn("`query` is deprecated: use `query_state`", DeprecationWarning, stacklevel=2)
        return self.query_state

    @property
    def state_names(self) -> list[str]:
        """The names of the states in order: first those that change, then the memory."""
        inner = [f"cell_{i}" for i in range(len(tree.flatten(self.cell.state_size)))]
        memory = ["memory", "keys", "memory_mask"]
        return ["output", *inner, "attention_scores", "position", *memory]

    @property
    def state_size(self) -> list:
        """Sizes of the states; None for those that depend on the memory's length."""
        return [self.output_size, *tree.flatten(self.cell.state_size), None, 1, None, None, None]

    @property
    def output_size(self) -> Any:
        """Width of the output; None before the cell is built."""
        return self._output_size if self.built else None

    def build(self, input_shape: Shape, memory_shape: Shape | None = None) -> None:
        """Build attention and cell, which need the shape `[B, S, Dm]` of the memory."""
        if memory_shape is None:
            raise ValueError(
                "`memory_shape` must be given: call `cell.build(input_shape, memory_shape)` before "
                "the cell runs in keras.layers.RNN, or use AttentionDecoder"
            )
        batch, width = input_shape[0], input_shape[-1]
        cell_width = _output_size(self.cell)
        query_shape = (batch, None, cell_width)
        if not self.attention.built:
            self.attention.build(query_shape, memory_shape)
        answer = self.attention.compute_output_shape(query_shape, memory_shape)[-1]
        self._fed_width = answer if self.input_feeding else 0
        if not self.cell.built:
            self.cell.build((batch, width + self._fed_width))
        self._output_size = answer if self.query_state == "current" else cell_width + answer
        self.built = True

    def get_initial_state(
        self,
        batch_size: Size | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cell: Nested | None = None,
    ) -> list:
        """The states before the first step; the cell must be built.

        Args:
            batch_size: ignored, since the memory has it; keras.layers.RNN passes it.
            memory: float `[B, S, Dm]`.
            memory_mask: bool `[B, S]`; defaults to all True.
            cell: states of the wrapped cell, defaults to zeros.
        """
        if memory is None:
            raise ValueError(
                "`memory` must be given: pass `initial_state=cell.get_initial_state(memory=...)` "
                "to keras.layers.RNN, or use AttentionDecoder"
            )
        row = memory[:, 0, :1]  # [B, 1], with a known width also for a symbolic memory
        inner = tree.flatten(cell)
        if cell is None:
            inner = [_zeros(row, size) for size in tree.flatten(self.cell.state_size)]
        batch, length, _ = memory.shape
        memory_mask = to_mask("memory_mask", memory_mask, batch=batch, length=length)
        memory = without_hidden(memory, memory_mask)
        if memory_mask is None:
            memory_mask = ops.ones_like(memory[:, :, 0], dtype="bool")
        return [
            _zeros(row, self.output_size),
            *inner,
            ops.zeros_like(memory[:, :, 0]),
            ops.zeros_like(row, dtype="int32"),
            memory,
            self.attention.project_memory(memory),
            memory_mask,
        ]

    # pyrefly: ignore[bad-override]
    def call(
        self,
        inputs: Tensor,
        states: Sequence[Tensor],
        seed: Tensor | None = None,
        training: bool = False,
    ) -> tuple[Tensor, list]:
        """One step."""
        output, *inner, last_weights, position, memory, keys, memory_mask = states

        def attend(query: Tensor) -> tuple[Tensor, Tensor]:
            answer, weights = self.attention(
                query[:, None, :],
                memory,
                keys=keys,
                memory_mask=memory_mask,
                query_offset=position,
                seed=None if seed is None else seed + ops.cast(position[0, 0], seed.dtype),
                return_attention_scores=True,
                training=training,
            )
            return answer[:, 0], ops.cast(weights[:, 0], last_weights.dtype)

        inner = tree.pack_sequence_as(_nested(self.cell.state_size), inner)
        if self.query_state == "previous":
            context, weights = attend(_top(self.cell, inner))
            hidden, inner = self._step(inputs, context, inner, training)
            output = ops.concatenate([hidden, context], axis=-1)
        else:
            hidden, inner = self._step(inputs, output, inner, training)
            output, weights = attend(hidden)
        states = [output, *tree.flatten(inner), weights, position + 1, memory, keys, memory_mask]
        return output, states

    def compute_output_shape(self, inputs_shape: Shape, states_shape: Shape | None = None) -> Shape:
        """Shape of the output of a step."""
        return (inputs_shape[0], self.output_size)

    def compute_output_spec(
        self,
        inputs: Tensor,
        states: Sequence[Tensor],
        seed: Tensor | None = None,
        training: bool = False,
    ) -> tuple[Tensor, list]:
        """Symbolic output and states."""
        output = keras.KerasTensor(self.compute_output_shape(inputs.shape), self.compute_dtype)
        kept = [keras.KerasTensor(state.shape, state.dtype) for state in states[1:]]
        return output, [output, *kept]

    def get_dropout_mask(self, step_input: Tensor) -> None:
        """Draw the dropout masks of the wrapped cells once for all steps."""
        fed = _zeros(step_input[:, :1], self._fed_width)
        inputs = ops.concatenate([step_input, fed], axis=-1)
        for cell in _cells(self.cell):
            if isinstance(cell, DropoutRNNCell):
                cell.get_dropout_mask(inputs)
                cell.get_recurrent_dropout_mask(_zeros(inputs[:, :1], _output_size(cell)))
            inputs = _zeros(inputs[:, :1], _output_size(cell))

    def get_recurrent_dropout_mask(self, step_input: Tensor) -> None:
        """Do nothing: `get_dropout_mask` draws both masks."""

    def reset_dropout_mask(self) -> None:
        """Reset the dropout masks of the wrapped cells."""
        for cell in _cells(self.cell):
            if isinstance(cell, DropoutRNNCell):
                cell.reset_dropout_mask()
                cell.reset_recurrent_dropout_mask()

    def reset_recurrent_dropout_mask(self) -> None:
        """Do nothing: `reset_dropout_mask` resets both masks."""

    def compute_mask(self, *_: Any, **__: Any) -> None:
        """None: a step propagates no mask."""

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "cell": serialize_shared(self.cell),
            "attention": serialize_shared(self.attention),
            "query_state": self.query_state,
            "input_feeding": self.input_feeding,
        }

    def _step(
        self, inputs: Tensor, fed: Tensor, inner: Nested, training: bool
    ) -> tuple[Tensor, Nested]:
        if self.input_feeding:
            inputs = ops.concatenate([inputs, fed], axis=-1)
        arguments = {"training": training} if takes_training(self.cell) else {}
        return self.cell(inputs, inner, **arguments)


def _nested(state_size: Nested) -> Nested:
    return state_size if tree.is_nested(state_size) else [state_size]


def _cells(cell: keras.layers.Layer) -> list:
    return cell.cells if isinstance(cell, keras.layers.StackedRNNCells) else [cell]


def _top(cell: keras.layers.Layer, states: Sequence[Nested]) -> Tensor:
    last = states[-1] if isinstance(cell, keras.layers.StackedRNNCells) else states
    return tree.flatten(last)[0]


def _output_size(cell: keras.layers.Layer) -> int:
    size = getattr(cell, "output_size", None)
    return tree.flatten(cell.state_size)[0] if size is None else size


def _zeros(row: Tensor, size: int) -> Tensor:
    return ops.repeat(ops.zeros_like(row), size, axis=1)  # [B, size]
