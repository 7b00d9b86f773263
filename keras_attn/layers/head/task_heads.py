"""The heads of the task models: dropout, then one dense layer.

Letters: B batch, T length, C choices, D model width.
"""

from typing import Any

import keras

from keras_attn._checks import check_count, check_rate, check_shape, to_mask
from keras_attn._keras import register
from keras_attn._typing import Config, Initializer, Shape, Tensor
from keras_attn.layers.masking import without_hidden
from keras_attn.layers.sublayers import CompositeLayer, Projection


class _DenseHead(CompositeLayer):
    """`dropout(x) W + b`, the base of the heads below.

    Args:
        units: width of the output.
        dropout: fraction of the input that is zeroed in training, in [0, 1).
        kernel_initializer: initializer of W.
        seed: seed of the dropout; defaults to a random one.
        use_bias: whether there is the b.
    """

    input_axes: tuple[str, ...] | None = None  # names of the axes, where the rank is fixed

    def __init__(
        self,
        units: int,
        dropout: float,
        kernel_initializer: Initializer,
        seed: int | None,
        *,
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_rate("dropout", dropout)
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = seed
        self.supports_masking = True
        self.dropout_layer = keras.layers.Dropout(
            dropout, seed=seed, dtype=self.dtype_policy, name="dropout"
        )
        self.output_projection = Projection(
            units,
            use_bias=use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name="output",
        )

    def build(self, input_shape: Shape) -> None:
        """Create the projection."""
        if self.input_axes:
            axes: dict[str, Any] = dict.fromkeys(self.input_axes)
            check_shape("inputs", input_shape, **axes)
        self.output_projection.build(input_shape)

    def _logits(self, inputs: Tensor, training: bool | None) -> Tensor:
        return self.output_projection(self.dropout_layer(inputs, training=training))

    def get_config(self) -> Config:
        """The constructor arguments that all heads have."""
        return {
            **super().get_config(),
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
        }


@register()
class ClassificationHead(_DenseHead):
    """`dropout(x) W + b`: a logit for each class of a sentence or a pair; with one class, a number.

    Args:
        num_classes: how many logits; 1 for regression.
        dropout: fraction of the input that is zeroed in training, in [0, 1).
        kernel_initializer: initializer of W.
        seed: seed of the dropout; defaults to a random one.
        use_bias: whether there is the b.

    Call arguments:
        inputs: float `[..., D]`: a pooled vector, usually `[B, D]`.
        training: whether to apply dropout.

    Masking: the inputs' mask is propagated to the output.

    Returns:
        logits `[..., num_classes]`, before a softmax.

    Raises:
        ValueError: `num_classes` is not positive.

    Source: Devlin et al. 2019, section 4.1 and figure 4 (a, b).

    Example:
    >>> import keras
    >>> ClassificationHead(num_classes=3)(keras.ops.ones((2, 5))).shape
    TensorShape([2, 3])
    """

    def __init__(
        self,
        num_classes: int,
        dropout: float = 0.1,
        kernel_initializer: Initializer = "glorot_uniform",
        seed: int | None = None,
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        num_classes = check_count("num_classes", num_classes)
        super().__init__(
            num_classes, dropout, kernel_initializer, seed, use_bias=use_bias, **kwargs
        )
        self.num_classes = num_classes
        self.use_bias = use_bias

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """The logits of `inputs`."""
        return self._logits(inputs, training)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Shape of the logits."""
        return (*input_shape[:-1], self.num_classes)

    def get_config(self) -> Config:
        """All constructor arguments."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "use_bias": self.use_bias,
        }


@register()
class TokenTaggingHead(ClassificationHead):
    """`dropout(x) W + b` at every position: the logits of its tag.

    Positions without a label (padding, the later tokens of a word) get logits like any other; give
    them the sample weight 0.

    Args:
        num_classes: how many tags.
        dropout: fraction of the input that is zeroed in training, in [0, 1).
        kernel_initializer: initializer of W.
        seed: seed of the dropout; defaults to a random one.
        use_bias: whether there is the b.

    Call arguments:
        inputs: float `[B, T, D]`, the encoder's output.
        training: whether to apply dropout.

    Masking: the inputs' mask is propagated to the output, so that Keras' losses ignore padding.

    Returns:
        logits `[B, T, num_classes]`.

    Raises:
        ValueError: `num_classes` is not positive, or inputs that are not of rank 3.

    Source: Devlin et al. 2019, section 5.3 and figure 4 (d).

    Example:
    >>> import keras
    >>> TokenTaggingHead(num_classes=3)(keras.ops.ones((2, 7, 5))).shape
    TensorShape([2, 7, 3])
    """

    input_axes = ("batch", "length", "width")


@register()
class MultipleChoiceHead(_DenseHead):
    """`dropout(x) w + b`: one logit for each choice.

    Args:
        dropout: fraction of the input that is zeroed in training, in [0, 1).
        kernel_initializer: initializer of w.
        seed: seed of the dropout; defaults to a random one.

    Call arguments:
        inputs: float `[B, C, D]`, the pooled vector of each choice with its question.
        training: whether to apply dropout.

    Masking: the inputs' mask is propagated to the output.

    Returns:
        logits `[B, C]`, before a softmax over C.

    Raises:
        ValueError: inputs of another rank.

    Source: Devlin et al. 2019, section 4.4.

    Example:
    >>> import keras
    >>> MultipleChoiceHead()(keras.ops.ones((2, 3, 5))).shape
    TensorShape([2, 3])
    """

    input_axes = ("batch", "choices", "width")

    def __init__(
        self,
        dropout: float = 0.1,
        kernel_initializer: Initializer = "glorot_uniform",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(1, dropout, kernel_initializer, seed, **kwargs)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Score each choice."""
        return self._logits(inputs, training)[..., 0]  # [B, C]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Shape of the logits."""
        return tuple(input_shape[:-1])


EXCLUDED = -3e4  # far below any logit, and finite also in float16


@register()
class SpanHead(_DenseHead):
    """`dropout(x) W + b`: two logits for every position, for the start and the end of the answer.

    An impossible answer starts and ends at the first position, [CLS].

    Args:
        dropout: fraction of the input that is zeroed in training, in [0, 1).
        kernel_initializer: initializer of W.
        seed: seed of the dropout; defaults to a random one.

    Call arguments:
        inputs: float `[B, T, D]`, the encoder's output.
        mask: bool `[B, T]`, True where an answer may start or end: the context, and [CLS] where an
            answer may be missing; defaults to every position.
        training: whether to apply dropout.

    Masking: a masked position gets a logit of -30000, so its probability is zero; the mask is not
    propagated.

    Returns:
        a dict of logits: "start" and "end", each `[B, T]`, before a softmax over T.

    Raises:
        ValueError: inputs that are not of rank 3.

    Source: Devlin et al. 2019, sections 4.2 and 4.3.

    Example:
    >>> import keras, numpy as np
    >>> logits = SpanHead()(keras.ops.ones((1, 3, 5)), mask=np.array([[True, False, True]]))
    >>> (keras.ops.convert_to_numpy(logits["start"]) < -29999).tolist()
    [[False, True, False]]
    """

    input_axes = ("batch", "length", "width")

    def __init__(
        self,
        dropout: float = 0.0,
        kernel_initializer: Initializer = "glorot_uniform",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(2, dropout, kernel_initializer, seed, **kwargs)

    # pyrefly: ignore[bad-override]
    def call(
        self, inputs: Tensor, mask: Tensor | None = None, training: bool | None = None
    ) -> dict:
        """The logits of starts and ends."""
        mask = self._checked(inputs, mask)
        logits = self._logits(without_hidden(inputs, mask), training)  # [B, T, 2]
        if mask is not None:
            allowed = keras.ops.expand_dims(mask, -1)
            logits = keras.ops.where(allowed, logits, keras.ops.cast(EXCLUDED, logits.dtype))
        return {"start": logits[..., 0], "end": logits[..., 1]}  # [B, T] each

    def compute_output_shape(self, input_shape: Shape) -> dict:
        """Shapes of the logits."""
        return {"start": tuple(input_shape[:-1]), "end": tuple(input_shape[:-1])}

    def compute_output_spec(
        self, inputs: Tensor, mask: Tensor | None = None, training: bool | None = None
    ) -> dict:
        """Symbolic logits."""
        self._checked(inputs, mask)
        shapes = self.compute_output_shape(inputs.shape)
        return {k: keras.KerasTensor(shape, self.compute_dtype) for k, shape in shapes.items()}

    def compute_mask(self, *_: Any, **__: Any) -> None:
        """None: the logits of excluded positions are part of the softmax."""

    def _checked(self, inputs: Tensor, mask: Tensor | None) -> Tensor | None:
        check_shape("inputs", inputs.shape, batch=None, length=None, width=None)
        return to_mask("mask", mask, batch=inputs.shape[0], length=inputs.shape[1])
