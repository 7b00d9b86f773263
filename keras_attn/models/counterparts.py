"""Our block for a Transformer block of keras-hub."""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_attn import layers
from keras_attn._keras import flatten_layers, hub_sublayer, set_alone
from keras_attn._typing import Config
from keras_attn.models.keras_attention import copy, projections

Calls = list[Config]

# The sublayers of a keras-hub block by their names, which its checkpoints have too, and the path of
# each in our block.
PARTS = {
    "self_attention_layer": "self_attention",
    "self_attention_layer_norm": "self_attention_norm",
    "feedforward_intermediate_dense": "feed_forward/hidden",
    "feedforward_output_dense": "feed_forward/output",
    "feedforward_layer_norm": "feed_forward_norm",
}
_CROSS_PARTS = {
    "cross_attention_layer": "cross_attention",
    "cross_attention_layer_norm": "cross_attention_norm",
}

_ENCODER_ARGUMENTS = {
    "inputs": "inputs",
    "padding_mask": "mask",
    "attention_mask": "attention_mask",
    "return_attention_scores": "return_attention_scores",
    "training": "training",
}
_DECODER_ARGUMENTS = {
    "decoder_sequence": "inputs",
    "decoder_padding_mask": "mask",
    "decoder_attention_mask": "attention_mask",
    "encoder_sequence": "context",
    "encoder_padding_mask": "context_mask",
    "training": "training",
}


@dataclasses.dataclass(frozen=True)
class Counterpart:
    """Our block, built and with the weights of a keras-hub block.

    Args:
        layer: ours.
        arguments: the name of each of their call arguments in ours.
        weights: our variable for each of theirs, by id.
    """

    layer: keras.layers.Layer
    arguments: dict[str, str]
    weights: dict[int, keras.Variable]

    def translate(self, call: Config) -> Config:
        """The arguments of our block, for a call of theirs."""
        return {
            self.arguments[name]: value for name, value in call.items() if name in self.arguments
        }


def is_block(layer: keras.layers.Layer) -> bool:
    """Whether the layer is of a class for which we have a block."""
    return type(layer) in _makers()


def bind(layer: keras.layers.Layer, args: tuple, kwargs: dict) -> Config:
    """The arguments of one call of the layer, by name."""
    return dict(inspect.signature(layer.call).bind(*args, **kwargs).arguments)


def counterpart(layer: keras.layers.Layer, calls: Calls) -> Counterpart | None:
    """Our block for a keras-hub block that a model calls in these ways; None without a counterpart.

    A block without one keeps its own code, with our attention inside.
    """
    parts = flatten_layers(layer)
    if (
        isinstance(layer.dtype_policy, keras.dtype_policies.DTypePolicyMap)
        or any(getattr(part, "lora_enabled", False) for part in parts)
        or any(getattr(part, "quantization_mode", None) is not None for part in parts)
        or any(hub_sublayer(layer, name) is None for name in PARTS)
    ):
        return None
    part = _makers()[type(layer)](layer, calls)
    if part is not None:
        set_alone(part.layer, "trainable", layer.trainable)
    return part


def _makers() -> dict[type, Callable[..., Counterpart | None]]:
    """The function that makes our block, for each of their classes."""
    hub = sys.modules.get("keras_hub")  # a keras-hub model has imported it
    if hub is None:
        return {}
    return {
        hub.layers.TransformerEncoder: _from_encoder,
        hub.layers.TransformerDecoder: _from_decoder,
    }


def _from_encoder(layer: keras.layers.Layer, calls: Calls) -> Counterpart | None:
    shapes = (calls[0]["inputs"].shape,)
    return _block(layers.TransformerEncoderBlock, layer, _ENCODER_ARGUMENTS, shapes)


def _from_decoder(layer: keras.layers.Layer, calls: Calls) -> Counterpart | None:
    given = {name for call in calls for name, value in call.items() if value is not None}
    causal = {bool(call.get("use_causal_mask", True)) for call in calls}
    context = calls[0].get("encoder_sequence")
    if given - {*_DECODER_ARGUMENTS, "use_causal_mask"} or len(causal) > 1:
        return None
    shapes = (calls[0]["decoder_sequence"].shape,)
    if context is None:
        kind, options = layers.TransformerEncoderBlock, {"causal": causal.pop()}
        return _block(kind, layer, _DECODER_ARGUMENTS, shapes, **options)
    if causal != {True}:  # our block with a context is always causal
        return None
    shapes = (*shapes, context.shape)
    return _block(layers.TransformerDecoderBlock, layer, _DECODER_ARGUMENTS, shapes)


def _block(
    kind: type, layer: keras.layers.Layer, arguments: dict[str, str], shapes: tuple, **options: Any
) -> Counterpart | None:
    if shapes[0][-1] % layer.num_heads:
        return None
    ours = kind(
        layer.num_heads,
        layer.intermediate_dim,
        dropout=layer.dropout,
        attention_dropout=layer.dropout,
        activation=layer.activation,
        layer_norm_epsilon=layer.layer_norm_epsilon,
        normalize_first=layer.normalize_first,
        kernel_initializer=layer.kernel_initializer.clone(),
        dtype=layer.dtype_policy,
        name=layer.name,
        **options,
    )
    ours.build(*shapes)
    weights = {}
    for source, target in _pairs(layer, ours):
        copy(source, target)
        weights |= {id(s): t for s, t in zip(source.weights, target.weights, strict=True)}
    return Counterpart(ours, arguments, weights)


def _pairs(
    theirs: keras.layers.Layer, ours: keras.layers.Layer
) -> Iterator[tuple[keras.layers.Layer, keras.layers.Layer]]:
    crosses = isinstance(ours, layers.TransformerDecoderBlock)
    paths = {part: part.path for part in flatten_layers(ours)}
    targets = {path.removeprefix(f"{ours.path}/"): part for part, path in paths.items() if path}
    for name, path in (PARTS | _CROSS_PARTS if crosses else PARTS).items():
        source, target = hub_sublayer(theirs, name), targets[path]
        if isinstance(target, layers.MultiHeadCrossAttention | layers.MultiHeadSelfAttention):
            for _, their_part, our_part in projections(source, target):
                yield their_part, our_part
        else:
            yield source, target
