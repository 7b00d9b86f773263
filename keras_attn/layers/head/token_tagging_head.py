"""A tag for each token.

Letters: B batch, T length, D model width.
"""

from keras_attn._register import register
from keras_attn.layers.head.classification_head import ClassificationHead


@register()
class TokenTaggingHead(ClassificationHead):
    """`dropout(x) W + b` at every position: the logits of its tag.

    Positions without a label of their own (padding, the later pieces of a word) get logits like
    any other; give them the sample weight 0.

    Args:
        num_classes: how many tags.
        dropout: and the others, as in `ClassificationHead`.

    Call arguments:
        inputs: float `[B, T, D]`, the encoder's output.
        training: whether dropout acts.

    Masking: the inputs' mask goes on, so that Keras' losses leave out padding.

    Returns:
        logits `[B, T, num_classes]`.

    Raises:
        ValueError: `num_classes` is not positive, or inputs that are no sequence.

    Source: Devlin et al. 2019, section 5.3 and figure 4 (d).

    Example:
    >>> import keras
    >>> TokenTaggingHead(num_classes=3)(keras.ops.ones((2, 7, 5))).shape
    TensorShape([2, 7, 3])
    """

    input_axes = ("batch", "length", "width")
