"""Copies weights of Keras' attention layers into ours, whose kernels are matrices.

Letters: N heads, H head width, D model width.
"""

import math

import keras

from keras_attn._keras import projection

_PARTS = ("query", "key", "value", "output")


def copy_keras_attention(
    source: keras.layers.MultiHeadAttention, target: keras.layers.Layer
) -> None:
    """Give one of our attention layers the weights of a Keras one, and so the same outputs.

    For our `MultiHeadAttention`, `set_weights` is enough.

    Args:
        source: built, with at least one batch axis and one sequence axis.
        target: a `MultiHeadCrossAttention` or `MultiHeadSelfAttention`, built for the same widths.

    Raises:
        TypeError: a source of another class.
        ValueError: layers that are not built, unequal heads, weights of other shapes (named).

    Example:
    >>> import keras
    >>> from keras_attn.layers import MultiHeadCrossAttention
    >>> theirs, ours = keras.layers.MultiHeadAttention(2, 3), MultiHeadCrossAttention(2, 3)
    >>> query, value = keras.ops.ones((1, 4, 5)), keras.ops.ones((1, 3, 7))
    >>> expected, _ = theirs(query, value), ours(query, value)
    >>> copy_keras_attention(theirs, ours)
    >>> bool(keras.ops.all(keras.ops.abs(ours(query, value) - expected) < 1e-6))
    True
    """
    if not isinstance(source, keras.layers.MultiHeadAttention):
        raise TypeError(
            f"`source` must be a keras.layers.MultiHeadAttention, got {type(source).__name__}"
        )
    for name, layer in (("source", source), ("target", target)):
        if not layer.built:
            raise ValueError(f"`{name}` must be built, got {layer.name!r} without weights")
    if source.num_heads != target.num_heads:
        raise ValueError(
            f"`target` must have {source.num_heads} heads as `source`, got {target.num_heads}"
        )
    wrong = []
    for name, theirs, ours in projections(source, target):
        needed = {weight.name: _merged(name, weight.shape) for weight in theirs.weights}
        found = {weight.name: tuple(weight.shape) for weight in ours.weights}
        if needed != found:
            wrong.append(f"{name} {found} for {needed}")
    if wrong:
        raise ValueError(f"`target` must have the weights of `source`, got {', '.join(wrong)}")
    for _, theirs, ours in projections(source, target):
        copy(theirs, ours)


def projections(
    source: keras.layers.Layer, target: keras.layers.Layer
) -> list[tuple[str, keras.layers.Layer, keras.layers.Layer]]:
    """The projections of a Keras attention layer, each with its name and that of our layer."""
    return [
        (part, projection(source, part), getattr(target, f"{part}_projection")) for part in _PARTS
    ]


def copy(theirs: keras.layers.Layer, ours: keras.layers.Layer) -> None:
    """Copy a layer's weights: the same numbers in the same order, whatever their shapes."""
    for source, target in zip(theirs.weights, ours.weights, strict=True):
        target.assign(keras.ops.reshape(source, target.shape))
    ours.trainable = theirs.trainable


def _merged(name: str, shape: tuple) -> tuple[int, ...]:
    """Our shape for a kernel [D, N, H] ([N, H, D] for the output), or for a bias [N, H]."""
    if len(shape) < 3:
        return (math.prod(shape),)
    if name == "output":
        return (math.prod(shape[:-1]), shape[-1])
    return (shape[0], math.prod(shape[1:]))
