"""Reads the configuration of a checkpoint: the size of its model, the options of its heads."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

from keras_attn._typing import Config
from keras_attn.models.sizes import Size
from keras_attn.ops.positions import RotaryScaling
from keras_attn.weights.checkpoint import Checkpoint
from keras_attn.weights.formats import Head, Key

# A kind of number: the words for an error, and whether a value is one.
Kind = tuple[str, Callable[[Any], bool]]
COUNT: Kind = ("a positive integer", lambda value: type(value) is int and value > 0)
RATE: Kind = ("a number in [0, 1)", lambda value: type(value) in (int, float) and 0 <= value < 1)
NUMBER: Kind = (
    "a finite number",
    lambda value: type(value) in (int, float) and abs(value) < math.inf,
)


def read_size(checkpoint: Checkpoint, kind: type[Size]) -> Size:
    """Our size, of the class `kind`, from a checkpoint's configuration.

    Raises:
        ValueError: a key is missing or has the wrong type, or there is no layer for its value.
    """
    config, format, title = checkpoint.read_config, checkpoint.format, checkpoint.source.title
    _require(title, config, format.requires)
    fields = dict(format.fixed)
    for field in dataclasses.fields(kind):
        key = format.size.get(field.name)
        if key is None or (key.name not in config and field.default is not dataclasses.MISSING):
            continue
        if key.name not in config:
            raise ValueError(f"{title}: the configuration must have `{key.name}`, got no such key")
        value = config[key.name]
        if key.values is not None:
            fields[field.name] = _translated(title, key, value)
            continue
        if key.number and (value is not None or key.name not in format.defaults):
            _number(title, key.name, value, _kind(field))
        try:
            loaded = key.load(value, config)
        except ValueError as error:
            raise ValueError(f"{title}: {error}") from error
        if not isinstance(loaded, RotaryScaling):
            _number(title, key.name, loaded, _kind(field))
        fields[field.name] = loaded
    size = kind(**fields)
    if size.hidden_dim % size.num_heads:
        width, heads = (format.size[field].name for field in ("hidden_dim", "num_heads"))
        raise ValueError(
            f"{title}: the configuration's `{heads}` must divide `{width}` {size.hidden_dim}, "
            f"got {size.num_heads}"
        )
    return size


def read_head_options(checkpoint: Checkpoint, heads: Iterable[Head]) -> Config:
    """The arguments of the functions that build these heads, from a checkpoint's configuration.

    Raises:
        ValueError: a value has the wrong type, or there is no head with it.
    """
    config, title = checkpoint.read_config, checkpoint.source.title
    options = {}
    for head in heads:
        _require(title, config, head.requires)
        if isinstance(head.pooling, Key):
            options["pooling"] = _translated(title, head.pooling, config[head.pooling.name])
        if head.activation:
            options["activation"] = head.activation
        if head.rate is not None:
            options["dropout"] = head.rate
        for key in head.dropout:
            if config.get(key) is not None:
                options["dropout"] = _number(title, key, config[key], RATE)
                break
    return options


def _translated(title: str, key: Key, value: object) -> str:
    """Our name for a value of the checkpoint."""
    names = key.values or {}
    if value not in tuple(names):
        raise ValueError(f"{title}: `{key.name}` must be one of {', '.join(names)}, got {value!r}")
    return names[value]


def _kind(field: dataclasses.Field) -> Kind:
    if field.type is int:
        return COUNT
    return RATE if field.name.endswith("dropout") else NUMBER


def _number(title: str, key: str, value: Any, kind: Kind) -> Any:
    expected, holds = kind
    if not holds(value):
        raise ValueError(f"{title}: `{key}` must be {expected}, got {value!r}")
    return value


def _require(title: str, config: Config, required: Config) -> None:
    for key, value in required.items():
        if config.get(key, value) != value:
            raise ValueError(f"{title}: `{key}` must be {value!r}, got {config[key]!r}")
