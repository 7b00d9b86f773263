"""Results computed again in the backward pass instead of kept, on every backend."""

import functools
from collections.abc import Callable, Sequence

import keras
from keras import ops, tree

from keras_attn import backend
from keras_attn._keras import AutocastScope, get_autocast_scope
from keras_attn._typing import Nested, Tensor


def remat(
    function: Callable[..., Nested],
    weights: Sequence[keras.Variable],
    states: Sequence[keras.Variable] = (),
) -> Callable[..., Nested]:
    """The same function, of which only the arguments are kept for the backward pass.

    Its values and gradients are the same, those of dropout too: the seeds are read before, and both
    computations draw from them.

    Args:
        function: takes tensors and nests of them; other arguments are constants.
        weights: every variable that it reads.
        states: every variable that it reads and assigns, such as the state of a seed generator.

    Returns:
        A function of the same arguments.

    Source: Chen et al. 2016, section 3.

    Example:
    >>> weight = keras.Variable([2.0, 3.0])
    >>> scale = remat(lambda inputs: inputs * weight, [weight])
    >>> ops.convert_to_numpy(scale(ops.ones((2,)))).tolist()
    [2.0, 3.0]
    """
    variables = [*weights, *states]

    @functools.wraps(function)
    def run(*args: Nested, **kwargs: Nested) -> Nested:
        nest = (args, kwargs)
        leaves = tree.flatten(nest)
        places = [i for i, leaf in enumerate(leaves) if keras.ops.is_tensor(leaf)]
        autocast = get_autocast_scope() or AutocastScope(None)

        def pure(*tensors: Tensor) -> tuple:
            """The outputs and the new states from tensors alone, now or later."""
            values, given = tensors[: len(variables)], list(leaves)
            for place, tensor in zip(places, tensors[len(variables) :], strict=True):
                given[place] = tensor
            args, kwargs = tree.pack_sequence_as(nest, given)
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(mapping) as scope, AutocastScope(autocast.dtype):
                outputs = function(*args, **kwargs)
            return outputs, tuple(scope.get_current_value(state) for state in states)

        with AutocastScope(None):  # a layer inside casts a weight to a dtype of its own
            values = [ops.convert_to_tensor(weight) for weight in weights]
            values += [state.value * 1 for state in states]  # copies, which no assignment changes
        outputs, new = backend.recomputed(pure, *values, *(leaves[place] for place in places))
        for state, value in zip(states, new, strict=True):
            state.assign(value)
        return outputs

    return run
