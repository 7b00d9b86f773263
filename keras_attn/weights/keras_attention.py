"""The weights of keras.layers.MultiHeadAttention in a layer of ours with matrices.

Letters: N heads, H head width, D model width.
"""

import keras

from keras_attn.weights.fit import fit
from keras_attn.weights.rule import FLAT, MERGED_FIRST, MERGED_LAST, Format, Rule
from keras_attn.weights.source import of_weights

RULES = (
    Rule("query/kernel", "query/kernel", MERGED_LAST),
    Rule("query/bias", "query/bias", FLAT),
    Rule("key/kernel", "key/kernel", MERGED_LAST),
    Rule("key/bias", "key/bias", FLAT),
    Rule("value/kernel", "value/kernel", MERGED_LAST),
    Rule("value/bias", "value/bias", FLAT),
    Rule("attention_output/kernel", "output/kernel", MERGED_FIRST),
    Rule("attention_output/bias", "output/bias"),
)


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
        ValueError: layers that are not built, unequal heads, weights that do not fit (named).

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
    biased = [rule for rule in RULES if source.use_bias or "bias" not in rule.source]
    theirs = of_weights(f"the layer {source.name!r}", source.weights, depth=2)
    format = Format("Keras attention", {}, tuple(biased), {})
    fit(theirs, format, target.weights, depth=2).assign()
