"""Tell whether the second segment follows the first.

Letters: B batch, D model width.
"""

from typing import Any

import keras

from keras_attn._register import register
from keras_attn.layers.sublayers import Projection


@register()
class NextSentenceHead(Projection):
    """`x W + b`: two logits, for "the second follows the first" (0) and "it does not" (1).

    Args:
        kernel_initializer: of W.

    Call arguments:
        inputs: float `[B, D]`, the encoder's pooled output.
        training: changes nothing.

    Returns:
        logits `[B, 2]`.

    Source: Devlin et al. 2019, section 3.1, task 2.

    Example:
    >>> import keras
    >>> NextSentenceHead()(keras.ops.ones((3, 4))).shape
    TensorShape([3, 2])
    """

    def __init__(self, kernel_initializer: Any = "glorot_uniform", **kwargs: Any) -> None:
        super().__init__(2, kernel_initializer=kernel_initializer, **kwargs)

    def get_config(self) -> dict:
        """All constructor arguments."""
        config = keras.layers.Layer.get_config(self)
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**config, "kernel_initializer": initializer}
