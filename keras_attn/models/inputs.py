"""What the inputs of a model are called, and models that take theirs from a larger dict."""

from typing import Any

import keras

from keras_attn._keras import register
from keras_attn._typing import Nested


def encoder_inputs() -> dict[str, keras.KerasTensor]:
    """New inputs `[B, T]` of an encoder, as `bert.encoder` names them."""
    return {
        "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
        "segment_ids": keras.Input((None,), dtype="int32", name="segment_ids"),
        "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
    }


@register()
class NamedInputs(keras.Model):
    """A functional model that takes its inputs from a dict by name, and ignores other entries.

    Of a dict with other entries `keras.Model` takes the first ones in alphabetical order, with no
    more than a warning.
    """

    def __call__(self, inputs: Nested, *args: Any, **kwargs: Any) -> Nested:
        """Call the model; symbolic tensors, for which Keras does not use `call`, come only here."""
        return super().__call__(self._own(inputs), *args, **kwargs)

    def call(self, inputs: Nested, training: bool | None = None, mask: Nested = None) -> Nested:
        """Compute the outputs; on JAX `fit` and `predict` call this directly."""
        if isinstance(mask, dict):
            mask = {name: mask.get(name) for name in self.input}
        return super().call(self._own(inputs), training=training, mask=mask)

    def compute_output_spec(self, inputs: Nested, *args: Any, **kwargs: Any) -> Nested:
        """The symbolic outputs."""
        return super().compute_output_spec(self._own(inputs), *args, **kwargs)

    def compute_output_shape(self, input_shape: Nested) -> Nested:
        """The shapes of the outputs."""
        return super().compute_output_shape(self._own(input_shape))

    def _own(self, inputs: Nested) -> Nested:
        """The entries that the model has; a nest that is no dict is left to Keras."""
        if not isinstance(inputs, dict):
            return inputs
        if not set(self.input) <= set(inputs):
            raise ValueError(
                f"`inputs` of {self.name} must have {sorted(self.input)}, got {sorted(inputs)}"
            )
        return {name: inputs[name] for name in self.input}
