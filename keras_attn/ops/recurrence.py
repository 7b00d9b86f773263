"""A loop over the steps of a sequence.

Letters: B batch, T steps.
"""

from collections.abc import Callable
from typing import Any

from keras_attn._keras import rnn


def recur(step: Callable, inputs: Any, states: list) -> Any:
    """Run `step` along axis 1 of `inputs` and stack what it gives.

    Args:
        step: function of the inputs `[B, ...]` of a step and the list of states, giving the outputs
            of the step (nested tensors `[B, ...]`) and the new states, of the shapes and dtypes of
            the old.
        inputs: one tensor `[B, T, ...]` of rank 3 or more.
        states: list of tensors `[B, ...]` before the first step.

    Returns:
        The outputs of all steps, `[B, T, ...]` each.

    Example:
    >>> from keras import ops
    >>> def add(inputs, states):
    ...     total = states[0] + inputs
    ...     return total, [total]
    >>> recur(add, ops.ones((1, 3, 1)), [ops.zeros((1, 1))]).numpy().tolist()
    [[[1.0], [2.0], [3.0]]]
    """
    _, outputs, _ = rnn(lambda row, carry: step(row, list(carry)), inputs, list(states))
    return outputs
