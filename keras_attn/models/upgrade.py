"""Our attention in an existing Keras model."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_attn._checks import check_choice
from keras_attn._keras import DotProductAttention, Functional, flatten_layers
from keras_attn._typing import Nested
from keras_attn.models import exchange
from keras_attn.models.comparison import Comparison
from keras_attn.models.counterparts import counterpart, is_block
from keras_attn.models.rebuild import Rebuild, calls_of, has_plain_graph, operations_of


@dataclasses.dataclass(frozen=True)
class Upgrade:
    """The result of `upgrade`.

    Args:
        model: the model to use from now on; the original model if its graph is not changed.
        replaced: the paths of the replaced layers and operations, as "nested_model/layer".
        changed_in_place: those of them that were changed in place, in a custom layer or model;
            `undo` restores them.
        left: the paths of the attention layers that stayed, each with the reason and what to do.
        difference: the largest difference that the comparison found, relative to the largest
            output; None if nothing could be compared, as without `inputs` or if two runs of the
            unchanged model differ.
        padding_difference: as `difference`, for padded batches of a model that reads padding
            without a mask; None for other models.

    `print` shows a table.
    """

    model: keras.Model
    replaced: tuple[str, ...]
    changed_in_place: tuple[str, ...]
    left: dict[str, str]
    difference: float | None = None
    padding_difference: float | None = None
    _sides: str = dataclasses.field(default="", repr=False)
    _obstacle: str | None = dataclasses.field(default=None, repr=False)
    _undo: list[Callable[[], None]] = dataclasses.field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Restore the layers that were changed in place; a second call does nothing."""
        while self._undo:
            self._undo.pop()()
        exchange.forget_compiled(self.model)

    def __str__(self) -> str:
        rows = [
            ("in place" if path in self.changed_in_place else "replaced", path, "")
            for path in self.replaced
        ]
        rows += [("left", path, reason) for path, reason in self.left.items()]
        if not rows:
            return f"{self.model.name!r} has no layer of Keras that attends"
        width = max(len(path) for _, path, _ in rows)
        lines = [f"{what:9}{path:{width + 2}}{reason}".rstrip() for what, path, reason in rows]
        if self.replaced and self.difference is None:
            lines.append(f"outputs were not compared: {self._obstacle}")
        elif self.replaced:
            lines.append(f"outputs differ by {self.difference:.1e} of the largest")
        if self.padding_difference is not None:
            lines.append(
                f"with padding on the {self._sides} they differ by {self.padding_difference:.1e}: "
                "a layer reads padding without a mask, where ours leaves other values; "
                'masks="keras" leaves the same'
            )
        return "\n".join(lines)


class _Found(NamedTuple):
    """What the comparison found, as in `Upgrade`; `sides`: where padding makes a difference."""

    difference: float | None = None
    padding_difference: float | None = None
    sides: str = ""


@dataclasses.dataclass(frozen=True)
class _Place:
    """Attention, and how to replace it.

    As a "layer", as a "block", as an "operation" of a graph, or by a "change" in place.
    """

    path: str
    layer: keras.layers.Layer
    how: str


def upgrade(model: keras.Model, inputs: Nested | None = None, *, masks: str = "exact") -> Upgrade:
    """Replace the attention layers of a model by ours, also in nested models and layers.

    `keras.layers.MultiHeadAttention`, `GroupQueryAttention`, `Attention` and `AdditiveAttention`
    become the layers of the same names of this package, and `keras.ops.dot_product_attention` in a
    plain functional model becomes ours. So do classes that are derived from the
    first two, keras-hub's cached attention among them, and that of its Llama, Mistral, Mixtral,
    Phi-3, Qwen, Qwen3 and Gemma: they keep their class and compute with our kernels. keras-hub's
    `TransformerEncoder` and `TransformerDecoder` become `TransformerEncoderBlock` and
    `TransformerDecoderBlock` in a plain functional model. Names, weights and whether they are
    frozen, quantized or have LoRA stay.

    A functional or Sequential model is built again, and the original model is not changed. It
    shares all layers and weights with the new one (except keras-hub's blocks): train only one of
    the two, and build on `upgraded.output` rather than on the `output` of a shared layer, which
    belongs to the old model. A compiled model stays compiled, and its optimizer keeps its state.

    Attention inside custom layers or models is changed in place, so that they keep their class and
    methods, such as `generate`. `Upgrade.changed_in_place` names it, and `Upgrade.undo` restores
    it. Such a model is saved as a model of Keras: upgrade it again after loading.

    The model is run before and after, without padding and with padding on the right and on the
    left, and a layer that changes its outputs by more than rounding is left as it was. These runs
    keep states and seeds. A model with `x[:, 0]` in its graph is not run with padding on the left:
    a token stands there in every row. The values at padding differ, and are not compared: if a
    query may attend to nothing, Keras gives the mean of all values, and we give zeros. Also, Keras'
    attention removes the mask from its inputs, so that later layers have none, while ours keeps it.
    A model that reads padding without a mask therefore gives other outputs for padded batches:
    `Upgrade.padding_difference` says how different they are.

    Args:
        model: a model, built.
        inputs: a batch for the comparison, as the model takes it. It is made for functional and
            Sequential models; other models are not compared without it.
        masks: "exact", or "keras" for the same outputs in models that read padding without a mask:
            layers then keep Keras' class and its handling of masks, and only use our kernels, until
            the model is saved and loaded again.

    Returns:
        An `Upgrade`.

    Raises:
        TypeError: `model` is not a keras.Model.
        ValueError: `masks` has another value, or `inputs` has no row.

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
    check_choice("masks", masks, ("exact", "keras"))
    comparison = Comparison(model, inputs)
    survey = _Survey(model, masks)
    trial = _Trial(model, masks, comparison)
    places = survey.places
    found = trial.differences(places)
    if (found.difference or 0.0) > trial.tolerance:
        places, found = trial.without_culprits(places, survey)
    upgraded, undo = trial.apply(places)
    return Upgrade(
        upgraded,
        tuple(place.path for place in places),
        tuple(place.path for place in places if place.how == "change"),
        survey.left,
        *found,
        comparison.obstacle,
        undo,
    )


class _Trial:
    """A trial of places: what a model computes with them."""

    def __init__(self, model: keras.Model, masks: str, comparison: Comparison) -> None:
        self._model, self._masks, self._comparison = model, masks, comparison
        self.tolerance = comparison.tolerance

    def apply(self, places: list[_Place], masks: str | None = None) -> tuple[keras.Model, list]:
        """The model with these places changed, and functions that undo the changes in place."""
        masks = masks or self._masks
        undo = [exchange.change(p.layer, masks) for p in places if p.how == "change"]
        rebuild = Rebuild(masks, [place.layer for place in places if place.how != "change"])
        exchange.forget_compiled(self._model)
        return rebuild.model(self._model), undo

    def differences(self, places: list[_Place]) -> _Found:
        """That of all batches; those of padded ones stand apart where only padding makes one."""
        if self._comparison.obstacle or not places:
            return _Found()
        plain, *padded = self._run(places, self._masks)
        with_padding = max(padded, default=0.0)
        if self._masks == "exact" and plain <= self.tolerance < with_padding:
            paths = tuple(place.path for place in places)
            same = [
                place
                for place in _Survey(self._model, "keras").places
                if f"{place.path}/".startswith(tuple(f"{path}/" for path in paths))
            ]
            if max(self._run(same, "keras")) <= self.tolerance:
                sides = zip(("right", "left"), padded, strict=False)
                differing = [side for side, found in sides if found > self.tolerance]
                return _Found(plain, with_padding, " and ".join(differing))
        return _Found(max(plain, with_padding))

    def without_culprits(self, places: list[_Place], survey: "_Survey") -> tuple[list, _Found]:
        """The places that do not change the outputs; the others are left."""
        kept, found = list[_Place](), _Found()
        for place in places:
            now = self.differences([*kept, place])
            difference = now.difference or 0.0
            if difference <= self.tolerance:
                kept, found = [*kept, place], now
            else:
                survey.put_back(
                    place,
                    f"with ours the outputs of the model differ by {difference:.1e}: keep it, or "
                    "compare the two layers on your data",
                )
        return kept, found

    def _run(self, places: list[_Place], masks: str) -> list[float]:
        model, undo = self.apply(places, masks)
        try:
            return self._comparison.differences(model)
        finally:
            for restore in undo:
                restore()


class _Survey:
    """The layers that attend in a tree of models and layers: those to be changed, and the others.

    A layer that is both in a graph and in a custom layer is changed in place.
    """

    def __init__(self, model: keras.Model, masks: str) -> None:
        self.left: dict[str, str] = {}
        self._masks = masks
        self._found: list[_Place] = []
        self._listed: set[keras.layers.Layer] = set()  # in graphs
        self._seen: set[keras.layers.Layer] = set()  # in code
        if has_plain_graph(model):
            self._calls = calls_of(model)
            self._graph(model, "")
        else:
            self._layer(model, model.name)

    @property
    def places(self) -> list[_Place]:
        """In the order of the model."""
        changed = {place.layer for place in self._found if place.how == "change"}
        return [p for p in self._found if p.how == "change" or p.layer not in changed]

    def leave(self, path: str, reason: str) -> None:
        """Note that a layer stays."""
        self.left[self._unique(path)] = reason

    def put_back(self, place: _Place, reason: str) -> None:
        """Note that a layer that was found stays."""
        self._found.remove(place)
        self.left[place.path] = reason

    def _graph(self, model: keras.Model, prefix: str) -> None:
        for layer in operations_of(model):
            path = prefix + layer.name
            if layer in self._listed:
                continue
            self._listed.add(layer)
            if has_plain_graph(layer):
                self._graph(layer, f"{path}/")
            elif isinstance(layer, DotProductAttention):
                if self._masks == "exact":
                    self._note(path, layer, "operation")
                else:
                    self.leave(path, _ONLY_COPY)
            elif not isinstance(layer, keras.Layer):
                continue
            elif type(layer) in exchange.drop_ins(self._masks) and layer.built:
                self._note(path, layer, "layer")
            elif (
                self._masks == "exact"
                and is_block(layer)
                and counterpart(layer, self._calls[layer]) is not None
            ):
                self._note(path, layer, "block")
            else:
                self._layer(layer, path)

    def _layer(self, layer: keras.layers.Layer, path: str) -> bool:
        """Whether a layer with code of its own attends, or anything in it."""
        if layer in self._seen:
            return False
        self._seen.add(layer)
        if exchange.is_ours(layer):
            return False
        base = exchange.base_of(layer)
        if base is not None and not layer.built:
            self.leave(path, "it is not built: call the model once, then upgrade")
        elif type(layer) in exchange.drop_ins(self._masks) or exchange.has_hook(layer):
            self._note(path, layer, "change")
        elif base is not None and self._masks == "keras" and type(layer) is base:
            self.leave(path, _ONLY_COPY)
        elif base is not None:
            # Both packages have it under this name, which is not always that of the class.
            name = next(name for name, kind in vars(keras.layers).items() if kind is base)
            self.leave(
                path,
                f"{type(layer).__name__} may compute something else than {name}: keep it, "
                f"or derive it from keras_attn.layers.{name}",
            )
        else:
            parts = flatten_layers(layer, recursive=False)
            found = [self._layer(part, f"{path}/{part.name}") for part in parts]
            for operation in layer.operations if isinstance(layer, Functional) else ():
                if isinstance(operation, DotProductAttention):
                    self.leave(f"{path}/{operation.name}", _FIXED_GRAPH)
                    found.append(True)
            unknown = not any(found) and exchange.seems_to_attend(layer)
            if unknown:
                self.leave(path, _UNKNOWN.format(type(layer).__name__))
            return unknown or any(found)
        return True

    def _note(self, path: str, layer: keras.layers.Layer, how: str) -> None:
        self._found.append(_Place(self._unique(path), layer, how))

    def _unique(self, path: str) -> str:
        """The path, numbered if another layer has the same."""
        taken = {*self.left, *(place.path for place in self._found)}
        paths = (f"{path} ({number})" if number > 1 else path for number in itertools.count(1))
        return next(path for path in paths if path not in taken)


_ONLY_COPY = 'with masks="keras" it is its only exact copy: keep it'
_UNKNOWN = (
    "{} has no counterpart: keep it, or write it with keras_attn.ops.attention; "
    "keras_attn.enable() reaches it if it calls keras.ops.dot_product_attention"
)
_FIXED_GRAPH = (
    "the graph around it cannot be rebuilt: call keras_attn.ops.dot_product_attention there, or "
    "keras_attn.enable()"
)
