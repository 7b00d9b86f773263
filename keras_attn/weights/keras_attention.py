"""The weights of keras.layers.MultiHeadAttention in a layer of ours with matrices."""

import keras

from keras_attn.weights.formats.format import Format
from keras_attn.weights.formats.keras_attention import RULES
from keras_attn.weights.matching import match
from keras_attn.weights.readers import read_weights


def copy_keras_attention(
    source: keras.layers.MultiHeadAttention, target: keras.layers.Layer
) -> None:
    """Give one of our attention layers the weights of a Keras one, and so the same outputs.

    Our `MultiHeadAttention` needs no help: `set_weights` does.

    Args:
        source: built, with at least one batch axis and one sequence axis.
        target: a `MultiHeadCrossAttention` or `MultiHeadSelfAttention`, built for the same widths.

    Raises:
        TypeError: a source of another class.
        ValueError: layers that are not built, unequal heads, weights that do not match (named).

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
    biased = tuple(rule for rule in RULES if source.use_bias or "bias" not in rule.source)
    theirs = read_weights(f"the layer {source.name!r}", source.weights, depth=2)
    format = Format("Keras attention", size={}, trunk=biased)
    match(theirs, format, target.weights, {}, depth=2).assign()
