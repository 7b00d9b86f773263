"""Rebuilds functional and Sequential models with our layers in place of others."""

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_attn._keras import (
    DotProductAttention,
    Functional,
    get_keras_mask,
    graph_of,
    nodes,
    set_alone,
)
from keras_attn._typing import Config, Nested
from keras_attn.models import exchange
from keras_attn.models.counterparts import Counterpart, bind, counterpart, is_block


def has_plain_graph(layer: keras.layers.Layer) -> bool:
    """Whether the layer is a plain functional or Sequential model, which runs only its graph.

    A rebuilt model of a subclass would lose the subclass's methods.
    """
    return type(layer) in (keras.Sequential, Functional) and graph_of(layer) is not None


def operations_of(model: keras.Model) -> list[keras.Operation]:
    """The layers and the operations without weights in a plain graph."""
    graph: Any = graph_of(model)
    return graph.operations


def calls_of(model: keras.Model) -> dict[keras.layers.Layer, list[Config]]:
    """The call arguments, by name, of each keras-hub block in a tree of such models."""
    calls: dict[keras.layers.Layer, list[Config]] = collections.defaultdict(list)
    for part in _plain_graphs(model, set()):
        for node in nodes(graph_of(part)):
            if is_block(node.operation):
                args = node.arguments
                calls[node.operation].append(bind(node.operation, args.args, args.kwargs))
    return calls


def _plain_graphs(model: keras.layers.Layer, seen: set[int]) -> Iterator[keras.Model]:
    if has_plain_graph(model) and id(model) not in seen:
        seen.add(id(model))
        yield model
        for layer in model.layers:
            yield from _plain_graphs(layer, seen)


class Rebuild:
    """Copies of models in which these layers are replaced by ours.

    Args:
        masks: as in `upgrade`.
        layers: layers and operations of Keras and blocks of keras-hub; without any, models stay
            themselves.
    """

    def __init__(self, masks: str, layers: Iterable[keras.layers.Layer]) -> None:
        self._masks = masks
        self._counterparts: dict[keras.Operation, Any] = dict.fromkeys(layers)
        self._blocks: dict[keras.layers.Layer, tuple[keras.layers.Layer, Counterpart]] = {}
        self._calls: dict[keras.layers.Layer, list[Config]] = {}

    def model(self, model: keras.Model) -> keras.Model:
        """The rebuilt model; the model itself if nothing is to be replaced."""
        if not self._counterparts:
            return model
        self._calls = calls_of(model)
        rebuilt = self._model(model)
        if model.compiled and model.optimizer is not None and model.optimizer.built:
            self._carry_optimizer(model, rebuilt)
        return rebuilt

    def _model(self, model: keras.Model) -> keras.Model:
        if isinstance(model, keras.Sequential):
            rebuilt = keras.models.clone_model(model, clone_function=self._counterpart_of)
        else:
            rebuilt = keras.models.clone_model(
                model,
                input_tensors=model.input,
                clone_function=self._counterpart_of,
                call_function=self._call,
            )
        set_alone(rebuilt, "trainable", model.trainable)
        return rebuilt

    def _counterpart_of(self, operation: keras.Operation) -> keras.Operation:
        if operation in self._counterparts:
            if self._counterparts[operation] is None:
                self._counterparts[operation] = self._layer(operation)
        elif has_plain_graph(operation) and any(
            inner in self._counterparts
            for part in _plain_graphs(operation, set())
            for inner in operations_of(part)
        ):
            self._counterparts[operation] = self._model(operation)
        return self._counterparts.get(operation, operation)

    def _layer(self, layer: keras.Operation) -> keras.Operation:
        if isinstance(layer, DotProductAttention):
            return layer  # `_call` calls ours in its place
        if not is_block(layer):
            return exchange.counterpart(layer, self._masks)
        part: Any = counterpart(layer, self._calls[layer])
        self._blocks[part.layer] = (layer, part)
        return part.layer

    def _call(self, layer: keras.Operation, *args: Any, **kwargs: Any) -> Nested:
        if isinstance(layer, DotProductAttention) and layer in self._counterparts:
            return exchange.attend(layer, *args, **kwargs)
        if layer not in self._blocks:
            return layer(*args, **kwargs)
        theirs, part = self._blocks[layer]
        call = part.translate(bind(theirs, args, kwargs))
        outputs = layer(**call)
        if call.get("mask") is not None and get_keras_mask(call["inputs"]) is None:
            # Keras propagates an argument named `mask` to the output; theirs has another name.
            outputs = keras.tree.map_structure(keras.ops.copy, outputs)  # without its mask
        return outputs

    def _carry_optimizer(self, model: keras.Model, rebuilt: keras.Model) -> None:
        """Copy the state of the model's optimizer to that of the rebuilt one.

        An optimizer variable has the path of its weight in its name.
        """
        if not rebuilt.optimizer.built:  # LossScaleOptimizer would make its variables again
            rebuilt.optimizer.build(rebuilt.trainable_variables)
        ours = {id(weight): weight for weight in model.trainable_variables}
        for _, part in self._blocks.values():
            ours |= part.weights
        names = {_name(weight): _name(ours[id(weight)]) for weight in model.trainable_variables}
        targets = collections.defaultdict(collections.deque)
        for target in rebuilt.optimizer.variables:
            targets[target.name].append(target)
        for source in model.optimizer.variables:
            name = source.name
            owner = max((n for n in names if name.startswith(f"{n}_")), key=len, default="")
            queue = targets[names.get(owner, "") + name[len(owner) :]]
            if queue:
                target = queue.popleft()
                target.assign(keras.ops.reshape(source, target.shape))


def _name(weight: keras.Variable) -> str:
    return weight.path.replace("/", "_")
