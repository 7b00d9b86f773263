"""The loss of token predictions, without all logits in memory.

Letters: B batch, T length, P predicted positions, V vocabulary, D model width, E embedding width.
"""

from typing import Any

import keras
from keras import ops

from keras_attn._checks import check_shape
from keras_attn._keras import deserialize_shared, register, serialize_shared
from keras_attn._typing import Config, Shape, Tensor
from keras_attn.ops.cross_entropy import linear_cross_entropy
from keras_attn.ops.numerics import wide


@register()
class LinearCrossEntropy(keras.layers.Wrapper):
    """The cross entropy of a head's logits, computed for a chunk of positions at a time.

    The layer adds the mean over the positions that are not ignored to the model's losses, so that
    `compile(optimizer)` and `fit` need no other loss: labels and weights are inputs of the model.
    The head, whose weights it trains, computes the logits for inference.

    Args:
        layer: a `LanguageModelHead` or `MaskedLMHead`.
        label_smoothing: fraction of the target spread evenly over the vocabulary, in [0, 1).

    Call arguments:
        inputs: float `[B, T, D]`, those of the head.
        embedding_matrix: float `[V, E]`, the token embeddings.
        labels: int `[B, T]` or `[B, T, 1]`; positions with a negative label are ignored.
        label_weights: float `[B, T]` or `[B, T, 1]`, or None for 1; positions of weight 0 are
            ignored.
        masked_positions: int `[B, P]`, for a `MaskedLMHead`: where to predict; the labels and
            their weights are then `[B, P]`.

    Masking: no mask is propagated; give `label_weights` instead.

    Returns:
        weighted losses, float32 (float64 for float64 inputs), of the labels' shape; 0 at ignored
        positions.

    Raises:
        ValueError: as the head; labels outside the vocabulary or not integers; labels or weights of
            the wrong shape.

    Source: Szegedy et al. 2016, section 7 (smoothing).

    Example: train a GPT, whose weights are those of `model`.
    >>> import keras
    >>> from keras_attn import models
    >>> model = models.gpt.decoder("gpt_tiny", vocabulary_size=11)
    >>> head = model.layers[-1]
    >>> labels = keras.Input((None,), dtype="int32", name="labels")
    >>> losses = LinearCrossEntropy(head)(*head.input, labels=labels)
    >>> trained = keras.Model({**model.input, "labels": labels}, losses)
    >>> trained.compile("adam")
    """

    def __init__(
        self, layer: keras.layers.Layer, label_smoothing: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(layer, **kwargs)
        self.label_smoothing = label_smoothing
        self.supports_masking = True

    # pyrefly: ignore[bad-override]
    def build(self, inputs_shape: Shape, embedding_matrix_shape: Shape, **_: Any) -> None:
        """Build the head if it is not built."""
        if not self.layer.built:
            self.layer.build(inputs_shape, embedding_matrix_shape)
            self.layer.built = True

    def call(
        self,
        inputs: Tensor,
        embedding_matrix: Tensor,
        labels: Tensor,
        label_weights: Tensor | None = None,
        masked_positions: Tensor | None = None,
    ) -> Tensor:
        """The loss of each position."""
        labels, label_weights, masked_positions = (
            None if given is None else ops.convert_to_tensor(given)
            for given in (labels, label_weights, masked_positions)
        )
        _check(inputs, labels, label_weights, masked_positions)
        places = {} if masked_positions is None else {"masked_positions": masked_positions}
        hidden = self.layer.hidden(inputs, **places)
        shape, labels = ops.shape(labels), ops.reshape(labels, (-1,))
        if label_weights is not None:
            label_weights = ops.reshape(label_weights, (-1,))
        losses = linear_cross_entropy(
            ops.reshape(hidden, (-1, hidden.shape[-1])),
            embedding_matrix,
            self.layer.bias,
            labels,
            label_weights,
            label_smoothing=self.label_smoothing,
        )
        weights = 1.0 if label_weights is None else ops.cast(label_weights, losses.dtype)
        count = ops.sum(ops.where(labels >= 0, weights, ops.zeros_like(losses)))
        self.add_loss(ops.sum(losses) / ops.where(count == 0, ops.ones_like(count), count))
        return ops.reshape(losses, shape)

    def compute_output_shape(
        self, inputs_shape: Shape, embedding_matrix_shape: Shape, labels_shape: Shape
    ) -> Shape:
        """One loss for each label."""
        return tuple(labels_shape)

    def compute_output_spec(
        self,
        inputs: Tensor,
        embedding_matrix: Tensor,
        labels: Tensor,
        label_weights: Tensor | None = None,
        masked_positions: Tensor | None = None,
    ) -> keras.KerasTensor:
        """One loss for each label, without running the layer."""
        _check(inputs, labels, label_weights, masked_positions)
        return keras.KerasTensor(labels.shape, wide(inputs.dtype))

    @classmethod
    def from_config(
        cls, config: Config, custom_objects: Config | None = None
    ) -> "LinearCrossEntropy":
        """The layer of a configuration, with a head that other layers of a model may share."""
        with keras.saving.custom_object_scope(custom_objects or {}):
            return cls(**{**config, "layer": deserialize_shared(config["layer"])})

    def compute_mask(self, *_: Any, **__: Any) -> None:
        """None: the sequence's mask does not apply to the predictions."""

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "layer": serialize_shared(self.layer),
            "label_smoothing": self.label_smoothing,
        }


def _check(
    inputs: Tensor, labels: Tensor, label_weights: Tensor | None, masked_positions: Tensor | None
) -> None:
    check_shape("inputs", inputs.shape, batch=None, length=None, width=None)
    batch, length = inputs.shape[:2]
    if masked_positions is not None:
        check_shape("masked_positions", masked_positions.shape, batch=batch, positions=None)
        length = masked_positions.shape[1]
    for name, given in (("labels", labels), ("label_weights", label_weights)):
        if given is not None:
            shape = given.shape[:2] if tuple(given.shape[2:]) == (1,) else given.shape
            check_shape(name, shape, batch=batch, length=length)
