"""Our layer for an attention layer of Keras, or for a Transformer block of keras-hub.

Letters: K key/value heads, N query heads, H head width, D model width.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_attn import layers
from keras_attn.models.keras_attention import PARTS, copy, copy_parts

Calls = list[dict[str, Any]]

_ATTENTION_ARGUMENTS = (
    *("query", "value", "key", "query_mask", "value_mask", "key_mask"),
    *("attention_mask", "return_attention_scores", "training"),
)
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


UNKNOWN = "{} has no counterpart: keep it, or write it with keras_attn.ops.attention"


class CannotReplaceError(Exception):
    """Why a layer must stay as it is."""


@dataclasses.dataclass(frozen=True)
class Counterpart:
    """Our layer, built and with the weights of a foreign one.

    Args:
        layer: ours.
        arguments: what each call argument of theirs is called in ours.
    """

    layer: keras.layers.Layer
    arguments: dict[str, str]

    def translate(self, call: dict[str, Any]) -> dict[str, Any]:
        """Arguments of ours, for a call of theirs."""
        return {
            self.arguments[name]: value for name, value in call.items() if name in self.arguments
        }


def is_foreign(layer: Any) -> bool:
    """Whether the layer is of a class, or of a subclass of one, that we have a counterpart for."""
    ours = isinstance(layer, layers.MultiHeadAttention)  # which is one of Keras' too
    return isinstance(layer, tuple(_makers())) and not ours


def name_of(layer: Any) -> str:
    """Which layer of ours a user takes for a foreign one in code of their own."""
    ours = next(ours for kind, (ours, _) in _makers().items() if isinstance(layer, kind))
    return f"keras_attn.layers.{ours.__name__}"


def is_unknown_attention(layer: Any) -> bool:
    """Whether a layer of no class that we know attends, as far as its name tells."""
    ours = type(layer).__module__.split(".")[0] == "keras_attn"
    return "attention" in type(layer).__name__.lower() and not ours


def bind(layer: keras.layers.Layer, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The arguments of one call of the layer, by name."""
    return dict(inspect.signature(layer.call).bind(*args, **kwargs).arguments)


def counterpart(layer: keras.layers.Layer, calls: Calls) -> Counterpart:
    """Our layer for a foreign one that a model calls in these ways.

    Raises:
        CannotReplaceError: ours would not compute the same; the text says why.
    """
    _, make = _makers().get(type(layer), (None, None))
    _refuse(
        (
            make is None,
            f"{type(layer).__name__} may change what its base class computes: derive it from "
            f"{name_of(layer)}",
        ),
        (not layer.built, "it is not built: call the model once, then upgrade"),
        (not calls, "the model does not call it: nothing is lost"),
        (
            isinstance(layer.dtype_policy, keras.dtype_policies.DTypePolicyMap),
            "its parts have dtype policies of their own: give it one policy, then upgrade",
        ),
    )
    for part in layer._flatten_layers():
        _refuse(
            (
                getattr(part, "lora_enabled", False),
                "it has LoRA weights: upgrade first, then enable_lora",
            ),
            (
                getattr(part, "quantization_mode", None) is not None,
                "it is quantized: upgrade first, then quantize",
            ),
        )
    part = make(layer, calls)
    if not layer.trainable:
        part.layer.trainable = False
    return part


def _makers() -> dict[type, tuple[type, Callable[..., Counterpart]]]:
    """For each foreign class ours, and the function that makes it."""
    makers: dict[type, tuple[type, Callable[..., Counterpart]]] = {
        keras.layers.MultiHeadAttention: (layers.MultiHeadAttention, _from_multi_head),
        keras.layers.GroupQueryAttention: (layers.MultiHeadCrossAttention, _from_grouped),
    }
    hub = sys.modules.get("keras_hub")  # a model of keras-hub's needs it loaded
    if hub is not None:
        encoder, decoder = hub.layers.TransformerEncoder, hub.layers.TransformerDecoder
        makers[encoder] = (layers.TransformerEncoderBlock, _from_encoder)
        makers[decoder] = (layers.TransformerDecoderBlock, _from_decoder)
    return makers


def _from_multi_head(layer: keras.layers.MultiHeadAttention, calls: Calls) -> Counterpart:
    ours = layers.MultiHeadAttention.from_config(layer.get_config())
    ours.build(*_shapes(calls[0]))
    for name in ("query", "key", "value", "output"):
        copy(getattr(layer, f"{name}_dense"), getattr(ours, f"{name}_dense"))
    if ours.use_gate:
        copy(_part(layer, "_gate_dense"), ours._gate_dense)
    return Counterpart(ours, {name: name for name in inspect.signature(layer.call).parameters})


def _from_grouped(layer: keras.layers.GroupQueryAttention, calls: Calls) -> Counterpart:
    config = layer.get_config()
    extras = [
        name
        for name, value in config.items()
        if name.endswith(("_regularizer", "_constraint")) and value is not None
    ]
    _refuse(
        (config.get("use_gate"), "ours has no gate: keep it, or make it without"),
        (extras, f"ours has no {', '.join(extras)}: keep it, or make it without"),
    )
    ours = layers.MultiHeadCrossAttention(
        layer.num_query_heads,
        layer.head_dim,
        num_kv_heads=layer.num_key_value_heads,
        causal=_causal(calls, default=False),
        window=config["sliding_window"],
        dtype=layer.dtype_policy,
        **{name: config[name] for name in ("name", "dropout", "use_bias", "seed")},
        **{name: config[name] for name in ("kernel_initializer", "bias_initializer")},
    )
    ours.build(*_shapes(calls[0]))
    _copy_attention(layer, ours)
    return Counterpart(ours, {name: name for name in _ATTENTION_ARGUMENTS})


def _shapes(call: dict[str, Any]) -> list[tuple]:
    return [call[name].shape for name in ("query", "value", "key") if call.get(name) is not None]


def _from_encoder(layer: Any, calls: Calls) -> Counterpart:
    ours = _block(layers.TransformerEncoderBlock, layer, calls[0]["inputs"].shape)
    return Counterpart(ours, _ENCODER_ARGUMENTS)


def _from_decoder(layer: Any, calls: Calls) -> Counterpart:
    known = (*_DECODER_ARGUMENTS, "use_causal_mask")
    unknown = [
        name
        for call in calls
        for name, value in call.items()
        if name not in known and value is not None
    ]
    causal = _causal(calls, default=True)
    context = calls[0].get("encoder_sequence")
    _refuse(
        (
            unknown,
            f"ours takes no {', '.join(dict.fromkeys(unknown))}: keep it, or call it without",
        ),
        (
            context is not None and not causal,
            "ours is causal where it has a context: keep it, or call it so",
        ),
    )
    shape = calls[0]["decoder_sequence"].shape
    if context is None:
        ours = _block(layers.TransformerEncoderBlock, layer, shape, causal=causal)
        return Counterpart(ours, _DECODER_ARGUMENTS)
    ours = _block(layers.TransformerDecoderBlock, layer, shape, context.shape)
    _copy_attention(_part(layer, "_cross_attention_layer"), ours.cross_attention)
    copy(_part(layer, "_cross_attention_layer_norm"), ours.cross_attention_norm)
    return Counterpart(ours, _DECODER_ARGUMENTS)


def _block(kind: type, layer: Any, *shapes: Any, **options: Any) -> keras.layers.Layer:
    """Our block with the weights that encoder and decoder both have."""
    _refuse(
        (
            shapes[0][-1] % layer.num_heads,
            f"its width {shapes[0][-1]} is no multiple of its {layer.num_heads} heads: keep it",
        )
    )
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
    _copy_attention(_part(layer, "_self_attention_layer"), ours.self_attention)
    copy(_part(layer, "_self_attention_layer_norm"), ours.self_attention_norm)
    copy(_part(layer, "_feedforward_intermediate_dense"), ours.feed_forward.hidden_projection)
    copy(_part(layer, "_feedforward_output_dense"), ours.feed_forward.output_projection)
    copy(_part(layer, "_feedforward_layer_norm"), ours.feed_forward_norm)
    return ours


def _copy_attention(theirs: Any, ours: layers.MultiHeadCrossAttention) -> None:
    copy_parts({name: _part(theirs, f"_{name}_dense") for name in PARTS}, ours)


def _part(layer: Any, name: str) -> Any:
    """A sublayer; neither library has a public name for all of them."""
    part = getattr(layer, name, None)
    _refuse((part is None, f"this version of {type(layer).__name__} has no {name}: keep it"))
    return part


def _causal(calls: Calls, default: bool) -> bool:
    values = {bool(call.get("use_causal_mask", default)) for call in calls}
    _refuse(
        (
            len(values) > 1,
            "it is called with use_causal_mask=True and with False: use a layer for each",
        )
    )
    return values.pop()


def _refuse(*reasons: Iterable) -> None:
    for refused, reason in reasons:
        if refused:
            raise CannotReplaceError(reason)
