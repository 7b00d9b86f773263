"""Lets a Keras attention layer compute with our kernels: in place, or as a counterpart.

In both cases sublayers and weights stay the same objects, also frozen, quantized or with LoRA.
"""

import functools
import inspect
import itertools
import types
from collections.abc import Callable
from typing import Any

import keras
from keras import ops as kops

from keras_attn import layers, ops
from keras_attn._keras import (
    ATTENTION_HOOK,
    ATTENTION_METHODS,
    BUILT_ATTENTION,
    dropout_seeds,
    flatten_layers,
    hub_scale,
    hub_window,
    returns_scores,
)
from keras_attn._keras import DotProductAttention as KerasOperation
from keras_attn._typing import Nested, Tensor
from keras_attn.layers.attention.attention_axes import AttentionAxes
from keras_attn.ops.dot_product_attention import DotProductAttention

DROP_INS = {
    keras.layers.MultiHeadAttention: layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention: layers.GroupQueryAttention,
    keras.layers.AdditiveAttention: layers.AdditiveAttention,  # before its base class
    keras.layers.Attention: layers.Attention,
}
_MANY_HEADS = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
# keras-hub layers that pass projected heads and a mask to a method, and their scales.
_HUB_SCALES: dict[str, Callable[[keras.layers.Layer], float]] = {
    "LlamaAttention": hub_scale,
    "CachedMistralAttention": hub_scale,
    "CachedMixtralAttention": hub_scale,
    "Phi3Attention": hub_scale,
    "QwenAttention": hub_scale,
    "Qwen3Attention": hub_scale,
    "CachedGemmaAttention": lambda layer: (
        (
            layer.head_dim
            if layer.query_head_dim_normalize
            else layer.hidden_dim // layer.num_query_heads
        )
        ** -0.5
    ),
}


def drop_ins(masks: str) -> tuple[type, ...]:
    """The Keras layers that can be replaced, with our rules for masks or with Keras'."""
    return tuple(DROP_INS) if masks == "exact" else _MANY_HEADS


def is_ours(layer: keras.layers.Layer) -> bool:
    """Whether the layer computes with our kernels already."""
    return isinstance(layer, tuple(DROP_INS.values())) or ATTENTION_HOOK in vars(layer)


def base_of(layer: keras.layers.Layer) -> type | None:
    """The Keras attention class that the layer is an instance of, if any."""
    return next((base for base in DROP_INS if isinstance(layer, base)), None)


def has_hook(layer: keras.layers.Layer) -> bool:
    """Whether its class computes attention in a method that we can replace."""
    if isinstance(layer, _MANY_HEADS):
        base = base_of(layer)
        return all(getattr(type(layer), name) is getattr(base, name) for name in ATTENTION_METHODS)
    known = _is_hub(layer) and type(layer).__name__ in _HUB_SCALES
    # Gemma drops attention weights; the others apply dropout afterwards, in their own code.
    return known and not (hasattr(layer, "logit_soft_cap") and layer.dropout)


def seems_to_attend(layer: keras.layers.Layer) -> bool:
    """Whether a layer of an unknown class seems to be attention: its name says so, or its code."""
    classes = list(itertools.takewhile(lambda kind: not _is_of(kind, "keras"), type(layer).__mro__))
    if not classes or any(_is_of(kind, "keras_attn") for kind in classes):
        return False
    members = [getattr(m, "__func__", m) for kind in classes for m in vars(kind).values()]
    codes = [member.__code__ for member in members if inspect.isfunction(member)]
    return "attention" in type(layer).__name__.lower() or any(map(_attends, codes))


def counterpart(layer: Any, masks: str) -> keras.layers.Layer:
    """Our layer for one of Keras' own, with the same sublayers and weights."""
    kind = DROP_INS[type(layer)] if masks == "exact" else type(layer)
    ours = kind.from_config(layer.get_config())
    for name in BUILT_ATTENTION:
        if hasattr(layer, name):
            _give(ours, name, getattr(layer, name))
    ours.built, ours.autocast = True, layer.autocast  # neither is in the config
    if masks == "exact":
        _let_masks_pass(ours)
    else:
        vars(ours)[ATTENTION_HOOK] = hook(ours)
    return ours


def _give(layer: keras.layers.Layer, name: str, part: Any) -> None:
    """Set an attribute; a variable that is frozen now is listed as one that can be trained."""
    frozen = isinstance(part, keras.Variable) and not part.trainable
    if frozen:
        part.trainable = True
    setattr(layer, name, part)
    if frozen:
        part.trainable = False


def attend(operation: KerasOperation, *args: Any, **kwargs: Any) -> Tensor:
    """The output of our operation for one of Keras' in a graph, which it is called like.

    What Keras' asks of `flash_attention` is dropped: our kernels are chosen by the device.
    """
    call = inspect.signature(operation.call).bind(*args, **kwargs).arguments
    scale = call.pop("scale", None)
    ours = DotProductAttention(
        scale, operation.is_causal, None, operation.attn_logits_soft_cap, name=operation.name
    )
    return ours(**call)


def change(layer: Any, masks: str) -> Callable[[], None]:
    """Let a layer compute with our kernels in place; returns a function that undoes it."""
    if masks == "exact" and type(layer) in DROP_INS:
        theirs, strict = type(layer), _let_masks_pass(layer)
        object.__setattr__(layer, "__class__", DROP_INS[theirs])
        vars(layer)["position"] = None

        def undo() -> None:
            object.__setattr__(layer, "__class__", theirs)
            del vars(layer)["position"]
            for part in strict:
                part.supports_masking = False

        return undo
    vars(layer)[ATTENTION_HOOK] = hook(layer)
    return functools.partial(vars(layer).pop, ATTENTION_HOOK)


def forget_compiled(model: keras.Model) -> None:
    """Let models whose layers have changed trace their functions again."""
    for part in (model, *flatten_layers(model)):
        for name in ("train_function", "test_function", "predict_function", "generate_function"):
            if getattr(part, name, None) is not None:
                setattr(part, name, None)


def hook(layer: keras.layers.Layer) -> Callable[..., Nested]:
    """The method from projected heads and a mask to the context, with our kernels."""
    if isinstance(layer, _MANY_HEADS):
        return functools.partial(_keras_hook, layer)
    return functools.partial(_hub_hook, layer, inspect.signature(getattr(layer, ATTENTION_HOOK)))


def _keras_hook(
    layer: keras.layers.Layer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    training: bool | None = None,
    return_attention_scores: bool | None = None,
    use_causal_mask: bool = False,
) -> tuple:
    """The method of Keras' layers, with masks as in Keras.

    A fully masked query gets the mean of all values, except with dropout, scores or more axes,
    where Keras takes the path that gives zeros.
    """
    if return_attention_scores is None:  # the layer with grouped heads stores it
        return_attention_scores = returns_scores(layer)
    axes = AttentionAxes(getattr(layer, "attention_axes", (1,)), len(query.shape) - 1)
    if attention_mask is not None:
        attention_mask = kops.convert_to_tensor(attention_mask)
    mask = ops.AttentionMask(
        causal=use_causal_mask, dense=axes.merge_mask(attention_mask, query, key)
    )
    dropout = layer.dropout if training else 0.0
    values = axes.merge(value)
    context = ops.attention(
        axes.merge(query),
        axes.merge(key),
        values,
        mask=mask,
        dropout=dropout,
        seed=dropout_seeds(layer).next() if dropout else None,
        return_scores=return_attention_scores,
    )
    context, *scores = context if return_attention_scores else (context,)
    if not (layer.dropout or scores or len(query.shape) != 4):
        context = _mean_where_empty(context, mask, values)
    scores = [kops.cast(axes.split_scores(s, query, key), query.dtype) for s in scores]
    return axes.split(context, query), (scores or [None])[0]


def _mean_where_empty(context: Tensor, mask: ops.AttentionMask, values: Tensor) -> Tensor:
    matrix = mask.materialize(kops.shape(context)[1], kops.shape(values)[1])
    if matrix is None:
        return context
    # [B, T, N or 1, 1]
    some = kops.transpose(kops.any(matrix, axis=-1, keepdims=True), (0, 2, 1, 3))
    return kops.where(some, context, kops.mean(values, axis=1, keepdims=True))


def _hub_hook(
    layer: keras.layers.Layer, signature: inspect.Signature, *args: Any, **kwargs: Any
) -> Tensor:
    call = signature.bind(*args, **kwargs).arguments
    query, key, value, *_ = call.values()
    mask = call.get("attention_mask")
    if mask is not None and getattr(layer, "use_sliding_window_attention", False):
        start = call.get("cache_update_index")
        mask = hub_window(layer, mask, 0 if start is None else start)
    return ops.attention(
        query,
        key,
        value,
        mask=ops.AttentionMask(dense=None if mask is None else mask[:, None]),
        scale=_HUB_SCALES[type(layer).__name__](layer),
        logits_soft_cap=getattr(layer, "logit_soft_cap", None),
    )


def _is_hub(layer: keras.layers.Layer) -> bool:
    return type(layer).__module__.split(".")[0] == "keras_hub"


def _let_masks_pass(layer: keras.layers.Layer) -> list:
    """Let sublayers accept masks: ours keeps masks on its inputs, and projections would warn."""
    strict = [part for part in flatten_layers(layer) if not part.supports_masking]
    for part in strict:
        part.supports_masking = True
    return strict


def _is_of(kind: type, package: str) -> bool:
    return kind.__module__.split(".")[0] == package


def _attends(code: types.CodeType) -> bool:
    """Whether it calls the attention of Keras, or softmax, and has a key, or a q and a k."""
    names = {*code.co_names, *code.co_varnames, *code.co_cellvars, *code.co_freevars}
    softmax = any("softmax" in name.lower() for name in names)
    named = not names.isdisjoint({"key", "keys"}) or names.issuperset({"q", "k"})
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return "dot_product_attention" in names or (softmax and named) or any(map(_attends, inner))
