"""The logits of a classifier to its best label.

B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_attn._register import register
from keras_attn.data._imports import tf
from keras_attn.data.postprocessor import Postprocessor


@register()
class ClassificationPostprocessor(Postprocessor):
    """The likeliest label of each row, and the probabilities of all.

    It serves classifiers of texts and of pairs, and multiple choice, whose classes are the choices.

    Args:
        labels: the names of the classes, in the order of the logits.

    Call arguments:
        outputs: logits `[B, C]`.
        features: what the preprocessor returned.

    Returns:
        A dict: `label` strings `[B]`; `probabilities` float32 `[B, C]`.

    Raises:
        ValueError: there is no label, or not one for each logit.

    Example:
    >>> answer = ClassificationPostprocessor(["no", "yes"])([[0.0, 1.0]], {})
    >>> answer["label"].numpy().tolist()
    [b'yes']
    """

    def __init__(self, labels: Sequence[str], **kwargs: Any):
        super().__init__(**kwargs)
        if not labels:
            raise ValueError("`labels` must hold a name for each class, got none")
        self.labels = list(labels)

    def call(self, outputs: Any, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The labels and their probabilities."""
        return self._likeliest(tf.convert_to_tensor(outputs), "label")

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments."""
        return {**super().get_config(), "labels": self.labels}

    def _likeliest(self, logits: tf.Tensor, name: str) -> dict[str, tf.Tensor]:
        if logits.shape[-1] != len(self.labels):
            raise ValueError(
                f"`labels` must name the {logits.shape[-1]} classes, got {len(self.labels)} names"
            )
        best = tf.argmax(logits, axis=-1)
        return {
            name: tf.gather(tf.constant(list(self.labels)), best),
            "probabilities": tf.nn.softmax(tf.cast(logits, tf.float32)),
        }
