"""Activations by name, with those that Keras has no name for."""

from collections.abc import Callable
from typing import Any

import keras

from keras_attn._register import register


@register()
def gelu_tanh(inputs: Any) -> Any:
    """`x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`: GELU as GPT-2 and keras-hub compute it.

    Source: Hendrycks and Gimpel 2016, section 2.
    """
    return keras.activations.gelu(inputs, approximate=True)


def get(name: str) -> Callable[[Any], Any]:
    """The activation of that name: gelu_tanh, or any of Keras'.

    Raises:
        ValueError: Keras does not know it either.
    """
    return gelu_tanh if name == "gelu_tanh" else keras.activations.get(name)
