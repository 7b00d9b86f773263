"""A model that computes in another precision, with the same weights."""

from __future__ import annotations

from typing import Any

import keras


def in_precision(model: keras.Model, dtype: str) -> keras.Model:
    """A copy of a functional model whose layers have the dtype policy `dtype`.

    The weights are rounded once, here, and not again for each request.

    Raises:
        ValueError: a dtype that no server computes in.
    """
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"`compute_dtype` must be float32, bfloat16 or float16, got {dtype!r}")

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.InputLayer):
            return type(layer).from_config(layer.get_config())
        return type(layer).from_config(_with_policy(layer.get_config(), dtype))

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


def _with_policy(config: Any, dtype: str) -> Any:
    """The config with every dtype policy in it replaced, those of nested layers too."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {**config["config"], "name": dtype}}
        replaced = {key: _with_policy(value, dtype) for key, value in config.items()}
        if isinstance(replaced.get("dtype"), str) and "name" in replaced:
            replaced["dtype"] = dtype
        return replaced
    return [_with_policy(item, dtype) for item in config] if isinstance(config, list) else config
