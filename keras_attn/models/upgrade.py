"""Our attention in an existing Keras model."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import keras

from keras_attn._keras import Functional, get_keras_mask
from keras_attn.models import counterparts
from keras_attn.models.counterparts import CannotReplaceError, Counterpart


@dataclasses.dataclass(frozen=True)
class Upgrade:
    """What `upgrade` made of a model.

    Args:
        model: the model to use from now on; the one that came in, if nothing could be replaced.
        replaced: where the layers were that are ours now, as "nested_model/layer".
        left: where the attention layers are that stayed, each with the reason and what to do.

    `print` shows a table of both.
    """

    model: keras.Model
    replaced: tuple[str, ...]
    left: dict[str, str]

    def __str__(self) -> str:
        rows = [("replaced", path, "") for path in self.replaced]
        rows += [("left", path, reason) for path, reason in self.left.items()]
        width = max((len(path) for _, path, _ in rows), default=0)
        lines = [f"{what:9}{path:{width + 2}}{reason}".rstrip() for what, path, reason in rows]
        return "\n".join(lines) or f"{self.model.name!r} has no layer that attends"


def upgrade(model: keras.Model) -> Upgrade:
    """Replace the attention layers of a functional or Sequential model by ours, nested ones too.

    `keras.layers.MultiHeadAttention` becomes `MultiHeadAttention` of this package,
    `GroupQueryAttention` becomes `MultiHeadCrossAttention`; keras-hub's `TransformerEncoder` and
    `TransformerDecoder` become `TransformerEncoderBlock` and `TransformerDecoderBlock`. Names and
    weights stay, and so do the outputs, at every position that is not padding. What stands at
    padding differs, as it does wherever a query may attend to nothing: Keras gives the mean of all
    values, we give zeros. So a model that reads padding without a mask computes something else.
    Keras' attention makes such models: it takes the mask off the tensors that it reads, and layers
    that read one of them afterwards (a residual `Add`, a second cross-attention) see none; ours
    leaves the mask on.

    All other layers are shared with the model that came in, not copied: train only one of the two,
    and build on `upgraded.output` rather than on the `output` of such a layer, which belongs to the
    old model. A model of a class with its own constructor, such as a backbone of keras-hub, becomes
    a plain functional model. A compiled model stays compiled, with a fresh optimizer.

    Args:
        model: functional or Sequential, built.

    Returns:
        An `Upgrade`: model, replaced, left.

    Raises:
        TypeError: `model` is no keras.Model.

    Example:
    >>> import keras
    >>> inputs = keras.Input((None, 8))
    >>> attention = keras.layers.MultiHeadAttention(2, 4, name="attention")
    >>> result = upgrade(keras.Model(inputs, attention(inputs, inputs, use_causal_mask=True)))
    >>> result.replaced, result.left
    (('attention',), {})
    >>> type(result.model.get_layer("attention")).__module__.split(".")[0]
    'keras_attn'
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model, got {type(model).__name__}")
    survey = _Survey()
    survey.visit(model, model.name, prefix="")
    found = {}
    for layer, path in survey.foreign:
        try:
            found[layer] = counterparts.counterpart(layer, survey.calls[layer])
        except CannotReplaceError as reason:
            survey.leave(path, str(reason))
    replaced = tuple(path for layer, path in survey.foreign if layer in found)
    if found:
        model = _Rebuild(found).model(model)
    return Upgrade(model, replaced, survey.left)


class _Survey:
    """The foreign layers of a tree of models, and how they are called."""

    def __init__(self) -> None:
        self.calls: dict[Any, list[dict]] = {}
        self.foreign: list[tuple[Any, str]] = []
        self.left: dict[str, str] = {}
        self._seen: set[Any] = set()

    def visit(self, layer: Any, path: str, prefix: str) -> None:
        """Note a layer, or what is inside it; `prefix` stands before the names of its layers."""
        if layer in self._seen:
            return
        self._seen.add(layer)
        if counterparts.is_foreign(layer):
            self.foreign.append((layer, path))
            self.calls.setdefault(layer, [])
        elif _has_graph(layer):
            for inner in layer.layers:
                self.visit(inner, prefix + inner.name, f"{prefix}{inner.name}/")
            for inner, args, kwargs in _calls(layer):
                if counterparts.is_foreign(inner):
                    self.calls[inner].append(counterparts.bind(inner, args, kwargs))
        elif isinstance(layer, keras.layers.Layer):
            self._stay(layer, path, layer)

    def leave(self, path: str, reason: str) -> None:
        """Note that a layer stays; one of the same path before it keeps its own entry."""
        paths = (f"{path} ({number})" if number > 1 else path for number in itertools.count(1))
        self.left[next(path for path in paths if path not in self.left)] = reason

    def _stay(self, layer: Any, path: str, outer: Any) -> bool:
        """Whether anything in a layer attends, noted; `outer` around it runs its own code."""
        if counterparts.is_foreign(layer):
            reason = f"its own code calls it: there, use {counterparts.name_of(layer)}"
            if isinstance(outer, keras.Sequential) and not outer.built:
                reason = "it is not built: call the model once, then upgrade"
            self.leave(path, f"inside {outer.name!r}: {reason}")
            return True
        inner = layer._flatten_layers(include_self=False, recursive=False)
        found = [self._stay(part, f"{path}/{part.name}", outer) for part in inner]
        if any(found):
            return True
        if attends := counterparts.is_unknown_attention(layer):
            self.leave(path, counterparts.UNKNOWN.format(type(layer).__name__))
        return attends


class _Rebuild:
    """Models with counterparts in place of foreign layers."""

    def __init__(self, found: dict[Any, Counterpart]) -> None:
        self._found = found
        self._foreign = {part.layer: layer for layer, part in found.items()}
        self._models: dict[Any, keras.Model] = {}

    def model(self, model: keras.Model) -> keras.Model:
        """The model's twin; the same one each time."""
        if model not in self._models:
            if isinstance(model, keras.Sequential):
                twin = keras.models.clone_model(model, clone_function=self._twin)
            else:
                twin = keras.models.clone_model(
                    model,
                    input_tensors=model.input,
                    clone_function=self._twin,
                    call_function=self._call,
                )
            if not model.trainable:
                twin.trainable = False
            self._models[model] = twin
        return self._models[model]

    def _twin(self, operation: Any) -> Any:
        if operation in self._found:
            return self._found[operation].layer
        inner = operation._flatten_layers() if _has_graph(operation) else ()
        if any(layer in self._found for layer in inner):
            return self.model(operation)
        return operation

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer not in self._foreign:
            return layer(*args, **kwargs)
        theirs = self._foreign[layer]
        call = self._found[theirs].translate(counterparts.bind(theirs, args, kwargs))
        outputs = layer(**call)
        if call.get("mask") is not None and get_keras_mask(call["inputs"]) is None:
            # Keras hands an argument called `mask` on to the output; theirs has another name.
            outputs = keras.tree.map_structure(keras.ops.copy, outputs)  # without its mask
        return outputs


def _has_graph(layer: Any) -> bool:
    """Whether the layer is a model that runs its graph and no code of its own."""
    if isinstance(layer, keras.Sequential):
        return type(layer).call is keras.Sequential.call and layer._functional is not None
    return isinstance(layer, Functional) and type(layer).call is Functional.call


def _calls(model: keras.Model) -> Iterator[tuple[Any, tuple, dict]]:
    graph = model._functional if isinstance(model, keras.Sequential) else model
    for nodes in graph._nodes_by_depth.values():
        for node in nodes:
            if not node.is_input:
                yield node.operation, node.arguments.args, node.arguments.kwargs
