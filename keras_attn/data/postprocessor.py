"""What the layers behind a served model share."""

from __future__ import annotations

from typing import Any

import keras

from keras_attn.data.text.tokenizer import BertTokenizer


class Postprocessor(keras.layers.Layer):
    """Base of the layers from a model's outputs to answers; `call(outputs, features)`.

    Args:
        tokenizer: a `BertTokenizer`, or what makes one; None where no piece is named.
    """

    def __init__(self, tokenizer: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        # Features hold strings: no other backend has a tensor for them.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self.supports_masking = True
        if tokenizer is not None and not isinstance(tokenizer, keras.layers.Layer):
            tokenizer = BertTokenizer(tokenizer)
        self.tokenizer = tokenizer
        self.built = True

    def compute_mask(self, *_: Any, **__: Any) -> None:
        """None: answers know their own padding."""

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments."""
        config = super().get_config()
        if self.tokenizer is not None:
            config["tokenizer"] = keras.saving.serialize_keras_object(self.tokenizer)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Postprocessor:
        """The layer that `get_config` describes."""
        if "tokenizer" in config:
            tokenizer = keras.saving.deserialize_keras_object(config["tokenizer"])
            config = {**config, "tokenizer": tokenizer}
        return cls(**config)
