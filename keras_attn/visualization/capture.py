"""A functional model's attention weights as a functional model.

Letters: B batch, N heads, T query length, S key length.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras


class _WithWeights(keras.layers.Layer):
    """A layer that returns its weights too.

    A layer of its own, as Keras expects every call of one layer to return equally many tensors.
    """

    def __init__(self, layer: keras.layers.Layer) -> None:
        super().__init__(dtype=layer.dtype_policy, name=f"{layer.name}_with_weights")
        self.layer = layer
        self.built = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs | {"return_attention_scores": True})

    def compute_mask(self, *_: Any) -> None:
        """The inner layer has set the mask of its output already."""


def attention_model(model: keras.Model) -> keras.Model | None:
    """A model with the same inputs and layers, whose outputs are the attention weights.

    Every layer that can return its weights is asked for them, be it of this package or Keras' own,
    and inside a model that is called as a layer too.

    Args:
        model: functional or sequential, with its inputs known.

    Returns:
        The model; its output is a dict from a layer's name to its weights, float `[B, N, T, S]`, or
        `[B, T, S]` of a layer without heads; a layer that has two kinds gives NAME and NAME_1, a
        layer inside the model OUTER gives OUTER_NAME. None where no layer has weights to give.

    Raises:
        ValueError: a model that is neither functional nor a built sequential one.

    Example:
    >>> from keras_attn.models import bert
    >>> model = attention_model(bert.encoder("bert_tiny", vocabulary_size=100))
    >>> {name: weights.shape for name, weights in model.output.items()}
    {'block_0': (None, 2, None, None), 'block_1': (None, 2, None, None)}
    """
    if not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must be functional, or sequential and built, "
            f"got the {type(model).__name__} {model.name!r}"
        )
    copy, weights = _capture(model)
    return keras.Model(copy.input, weights) if weights else None


def _capture(model: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
    """The model called anew on inputs of its own, and the weights in that call."""
    weights: dict[str, Any] = {}

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
            copy, inner = _capture(layer)
            if not inner:
                return layer(*args, **kwargs)
            outputs, inner = keras.Model(copy.input, [copy.output, inner])(*args, **kwargs)
            weights.update({f"{layer.name}_{name}": item for name, item in inner.items()})
            return outputs
        if "return_attention_scores" not in inspect.signature(layer.call).parameters:
            return layer(*args, **kwargs)
        results = _WithWeights(layer)(*args, **kwargs)
        outputs, first, *more = results
        weights[layer.name] = first
        weights.update({f"{layer.name}_{index}": item for index, item in enumerate(more, start=1)})
        return results if kwargs.get("return_attention_scores") else outputs

    if isinstance(model, keras.Sequential):  # of which no call can be changed
        model = keras.Model(model.inputs[0], model.outputs[0])
    copy = keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=call, recursive=False
    )
    return copy, weights
