"""A layer's call, recomputed in the backward pass."""

import functools
from collections.abc import Callable
from typing import Any

from keras.src.backend import get_keras_mask, set_keras_mask  # Keras exports neither

from keras_attn.ops.remat import remat


def recomputable(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, of which training keeps only the inputs where the layer's `remat` says so."""

    @functools.wraps(call)
    def wrapped(
        self: Any, inputs: Any, *args: Any, training: bool | None = None, **kwargs: Any
    ) -> Any:
        if not (self.remat and training):
            return call(self, inputs, *args, training=training, **kwargs)
        mask = get_keras_mask(inputs)

        def function(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if mask is not None:  # the recomputation starts from tensors that carry none
                set_keras_mask(inputs, mask)
            return call(self, inputs, *args, training=True, **kwargs)

        weights = {id(weight) for weight in self.weights}
        states = [variable for variable in self.variables if id(variable) not in weights]
        return remat(function, self.weights, states)(inputs, *args, **kwargs)

    return wrapped
