"""A functional model's attention weights as a functional model.

Letters: B batch, N heads, T query length, S key length, K key heads, H head width.
"""

from __future__ import annotations

import collections
import inspect
import itertools
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras import ops

from keras_attn._keras import call_number, nodes
from keras_attn._typing import Nested, Tensor
from keras_attn.ops.attention import watch


def attention_model(model: keras.Model, *, query_key: bool = False) -> keras.Model | None:
    """A model with the same inputs and layers, whose outputs are the attention weights.

    It collects the weights of every layer that can return them, of this package or of Keras, also
    inside a model that is called as a layer, and inside `keras.layers.TimeDistributed`.

    Args:
        model: functional, or sequential and built.
        query_key: whether a layer's entry is a dict, of its "weights", its "query" `[B, N, T, H]`
            and its "key" `[B, N, S, H]`, as they are multiplied: after positions and norms, and
            scaled, so that their product is the logits without the position's bias. A warning names
            a layer that has no query and key; its entry has only its weights.

    Returns:
        The model; its output is a dict from a layer's name to its weights, float `[B, N, T, S]`, or
        `[B, T, S]` of a layer without heads. Each call of a layer has its own entry:

        - a layer with two kinds of weights gives NAME and NAME_1;
        - the second call of a layer gives NAME_call_2;
        - a layer inside the model OUTER gives OUTER_NAME, inside its second call
          OUTER_call_2_NAME;
        - a layer inside `TimeDistributed` gives the name of the wrapper, for each step: one more
          axis after the batch.

        If another layer already has such a name, it is written with slashes: NAME/1. None if no
        layer can return weights.

    Raises:
        ValueError: a model that is neither functional nor a built sequential one.

    Example:
    >>> from keras_attn.models import bert
    >>> model = attention_model(bert.encoder("bert_tiny", vocabulary_size=100))
    >>> {name: weights.shape for name, weights in model.output.items()}
    {'block_0': (None, 2, None, None), 'block_1': (None, 2, None, None)}
    """
    if not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must be functional, or sequential and built, "
            f"got the {type(model).__name__} {getattr(model, 'name', model)!r}"
        )
    capture = _Capture(query_key)
    copy, weights = capture.of_model(model)
    for wrapper in capture.incomplete():
        warnings.warn(
            f"the layer {wrapper.layer.name!r} gives no query and key: {wrapper.reason}",
            stacklevel=2,
        )
    return keras.Model(copy.input, weights) if weights else None


class _WithWeights(keras.layers.Layer):
    """A wrapper of a layer; its call returns `[outputs, weights]`, the weights by name.

    A new layer, since Keras expects every call of one layer to return the same number of tensors.
    """

    def __init__(self, layer: keras.layers.Layer) -> None:
        super().__init__(dtype=layer.dtype_policy, name=f"{layer.name}_with_weights")
        self.layer = layer
        self.built = True

    def compute_mask(self, *_: Any) -> None:
        """The inner layer has set the mask of its output already."""


class _LayerWithWeights(_WithWeights):
    def __init__(self, layer: keras.layers.Layer, query_key: bool) -> None:
        super().__init__(layer)
        self.query_key = query_key
        self.reason: str | None = None  # why it has no query and key

    # pyrefly: ignore[bad-override]
    def call(self, *args: Any, **kwargs: Any) -> list:
        with watch() as calls:
            outputs, *rest = self.layer(*args, **kwargs | {"return_attention_scores": True})
        weights = [item for item in rest if not isinstance(item, dict)]
        caches = [item for item in rest if isinstance(item, dict)]
        if kwargs.get("return_attention_scores"):
            outputs = (outputs, *rest)
        elif caches:
            outputs = (outputs, *caches)
        if self.query_key:
            products = calls if len(calls) == len(weights) and _multiplies(self.layer) else []
            weights = [
                {"weights": w} | _query_key(w, *product)
                for w, product in itertools.zip_longest(weights, products, fillvalue=())
            ]
            if any("query" not in parts for parts in weights):
                self.reason = _reason(self.layer, products)
        return [outputs, {str(kind) if kind else "": w for kind, w in enumerate(weights)}]


def _multiplies(layer: keras.layers.Layer) -> bool:
    """Whether the logits are products; additive scores reach `ops.attention` as a bias."""
    additive = isinstance(layer, keras.layers.AdditiveAttention)
    return not additive and getattr(layer, "score_mode", "dot") == "dot"


def _query_key(
    weights: Tensor, query: Tensor | None = None, key: Tensor | None = None
) -> dict[str, Tensor]:
    """Query and key, from `[B, T, N, H]` and `[B, S, K, H]`, with the axes of the weights.

    Empty if the weights have no axis of heads.
    """
    if query is None or len(weights.shape) not in (3, 4):
        return {}
    heads = query.shape[2]
    if (weights.shape[1] if len(weights.shape) == 4 else 1) != heads:
        return {}  # axes of the batch, not heads
    query, key = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key))
    key = ops.repeat(key, heads // key.shape[1], axis=1)
    if len(weights.shape) == 3:
        query, key = query[:, 0], key[:, 0]
    return {"query": query, "key": key}


class _StepsWithWeights(_WithWeights):
    """`TimeDistributed`, with all steps in one batch."""

    def __init__(self, layer: keras.layers.TimeDistributed, inner: keras.layers.Layer) -> None:
        super().__init__(layer)
        self.inner = inner

    # pyrefly: ignore[bad-override]
    def call(
        self, inputs: Tensor, mask: Tensor | None = None, training: bool | None = None
    ) -> list:
        steps = ops.shape(inputs)[:2]

        def merge(x: Tensor) -> Tensor:
            return ops.reshape(x, (-1, *ops.shape(x)[2:]))

        def split(x: Tensor) -> Tensor:
            return ops.reshape(x, (*steps, *ops.shape(x)[1:]))

        arguments = {} if mask is None else {"mask": merge(mask)}
        return keras.tree.map_structure(split, self.inner(merge(inputs), **arguments))


class _Capture:
    """Models and layers that also return their weights, one for each original."""

    def __init__(self, query_key: bool) -> None:
        self._query_key = query_key
        self._wrappers: dict[keras.layers.Layer, keras.layers.Layer | None] = {}

    def of_model(self, model: keras.Model) -> tuple[keras.Model, dict[str, Nested]]:
        """The model called again on new inputs, and the weights of that call."""
        if isinstance(model, keras.Sequential):  # whose calls cannot be replaced
            model = keras.Model(model.inputs[0], model.outputs[0])
        turns = _turns(model)
        found: dict[keras.layers.Layer, dict[int, dict]] = {}

        def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Nested:
            turn = next(turns[layer])
            wrapper = self._of_layer(layer)
            if wrapper is None:
                return layer(*args, **kwargs)
            outputs, weights = wrapper(*args, **kwargs)
            found.setdefault(layer, {})[turn] = weights
            return outputs

        copy = keras.models.clone_model(
            model, clone_function=lambda layer: layer, call_function=call, recursive=False
        )
        return copy, _named(found)

    def incomplete(self) -> list[_LayerWithWeights]:
        """The layers that have weights but no query and key."""
        wrappers = self._wrappers.values()
        return [x for x in wrappers if isinstance(x, _LayerWithWeights) and x.reason is not None]

    def _of_layer(self, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        """The object to call instead of the layer; None if the layer cannot return weights."""
        if layer not in self._wrappers:
            self._wrappers[layer] = self._make(layer)
        return self._wrappers[layer]

    def _make(self, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if isinstance(layer, keras.layers.TimeDistributed):
            inner = self._of_layer(layer.layer)
            return inner and _StepsWithWeights(layer, inner)
        if isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
            copy, weights = self.of_model(layer)
            return keras.Model(copy.input, [copy.output, weights]) if weights else None
        if "return_attention_scores" in inspect.signature(layer.call).parameters:
            return _LayerWithWeights(layer, self._query_key)
        return None


def _reason(layer: keras.layers.Layer, products: list) -> str:
    if products:
        return "its weights have other axes than heads, queries and keys"
    if _multiplies(layer) and type(layer).__module__.startswith("keras."):
        return "it is Keras' own, which `keras_attn.upgrade` replaces"
    return "its logits are no product of the query and the key of each head"


def _turns(model: keras.Model) -> dict[keras.layers.Layer, Iterator[int]]:
    """For each layer, the order in which its calls run when the model is called again.

    A model runs by depth, not in the order in which it was written.
    """
    turns = collections.defaultdict(list)
    for node in nodes(model):
        turns[node.operation].append(call_number(node))
    return {
        layer: iter([sorted(indices).index(index) for index in indices])
        for layer, indices in turns.items()
    }


def _named(found: dict[keras.layers.Layer, dict[int, dict]]) -> dict[str, Nested]:
    named: dict[str, Nested] = {}
    for layer, calls in found.items():
        for turn in sorted(calls):
            for name, weights in calls[turn].items():
                call = f"call_{turn + 1}" if turn else ""
                named[_free_name((layer.name, call, name), found, named)] = weights
    return named


def _free_name(words: Iterable[str], layers: Iterable, taken: Iterable[str]) -> str:
    own, *more = [word for word in words if word]
    name = "_".join([own, *more])
    if more and (name in taken or name in [layer.name for layer in layers]):
        return "/".join([own, *more])
    return name
