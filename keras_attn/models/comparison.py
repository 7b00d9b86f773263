"""Compares the outputs of a model before and after a change, on generated or given inputs."""

from typing import Any

import keras
import numpy as np

from keras_attn._keras import Functional, GetItem, flatten_layers, graph_of, nodes
from keras_attn._typing import Nested, Tensor
from keras_attn.models.first_position import is_first

_BATCH, _LENGTH, _SIDE = 2, 9, 32
_PADDED = 3  # positions at one end
# What is padding, and what is not: on the right, on the left.
_RIGHT = slice(-_PADDED, None), slice(None, -_PADDED)
_LEFT = slice(None, _PADDED), slice(_PADDED, None)


class Comparison:
    """The outputs of a model before it is changed, on batches with and without padding.

    A model that reads the first position by `x[:, 0]` gets no padding on the left: a token stands
    there in every row.

    Args:
        model: its outputs are computed at once. The runs change no variable of it.
        inputs: a batch; defaults to one generated from the model's inputs.
    """

    def __init__(self, model: keras.Model, inputs: Nested | None = None) -> None:
        for tensor in keras.tree.flatten(inputs):
            if 0 in tuple(getattr(tensor, "shape", ())):
                raise ValueError(f"`inputs` must not be empty, got the shape {tuple(tensor.shape)}")
        made = inputs is None and has_inputs(model)
        batch = make_inputs(model) if made else inputs
        # What padding is in vectors.
        masking = [p for p in flatten_layers(model) if isinstance(p, keras.layers.Masking)]
        self._padding = masking[0].mask_value if masking else 0.0
        self._sequences = _sequences(model)
        # Each with the positions that are compared.
        self._batches: list[tuple[Nested, slice]] = [(batch, slice(None))]
        if any(map(self._paddable, keras.tree.flatten(batch))):
            for padding, rest in [_RIGHT] if _reads_first(model) else [_RIGHT, _LEFT]:
                padded = keras.tree.map_structure(lambda x, at=padding: self._pad(x, at), batch)
                self._batches.append((padded, rest))
        self.tolerance = _tolerance(model)
        self.obstacle: str | None = None  # why outputs cannot be compared
        if not made and inputs is None:
            self.obstacle = _NO_INPUTS
            return
        try:
            if not all(part.built for part in flatten_layers(model)):
                model(batch, training=False)  # `_run` can build no variables
            self._expected = [self._outputs(model, *batch) for batch in self._batches]
        except Exception:
            if not made:
                raise
            self.obstacle = _NO_INPUTS  # the model needs some that their shapes do not determine
            return
        if max(map(_difference, self._outputs(model, *self._batches[0]), self._expected[0])) > (
            self.tolerance
        ):
            self.obstacle = "two runs of the unchanged model differ"

    def differences(self, model: keras.Model) -> list[float]:
        """The largest difference of an output of each batch, relative to the largest output.

        The batches: without padding; if one can be padded, with padding on the right, on the left.
        """
        return [
            max(map(_difference, self._outputs(model, *batch), expected))
            for batch, expected in zip(self._batches, self._expected, strict=True)
        ]

    def _outputs(self, model: keras.Model, batch: Nested, compared: slice) -> list[np.ndarray]:
        """The outputs, of sequences without those at padding, which may differ."""
        outputs = _run(model, batch)
        lengths = {x.shape[1] for x in keras.tree.flatten(batch) if self._paddable(x)}
        sequences = self._sequences or [True] * len(outputs)
        return [
            x[:, compared] if sequence and x.ndim > 1 and x.shape[1] in lengths else x
            for x, sequence in zip(outputs, sequences, strict=True)
        ]

    def _paddable(self, batch: Tensor) -> bool:
        if not hasattr(batch, "dtype") or len(batch.shape) < 2 or batch.shape[1] <= _PADDED:
            return False
        if "float" not in keras.backend.standardize_dtype(batch.dtype) or len(batch.shape) > 2:
            return True
        return bool(np.isin(keras.ops.convert_to_numpy(batch), (0.0, 1.0)).all())  # a mask

    def _pad(self, batch: Tensor, at: slice) -> Tensor:
        if not self._paddable(batch):
            return batch
        batch = np.array(keras.ops.convert_to_numpy(batch))
        batch[:, at] = self._padding if batch.dtype.kind == "f" and batch.ndim > 2 else 0
        return batch


_NO_INPUTS = "give `inputs`"


def has_inputs(model: keras.Model) -> bool:
    """Whether the model declares its inputs."""
    return graph_of(model) is not None


def make_inputs(model: keras.Model) -> Nested:
    """A batch for the inputs of a functional or Sequential model, without padding."""
    graph: Any = graph_of(model)
    rng = np.random.default_rng(0)

    def make(tensor: Tensor) -> np.ndarray:
        free = sum(size is None for size in tensor.shape[1:])
        size = _LENGTH if free < 2 else _SIDE
        shape = [size if axis is None else axis for axis in tensor.shape[1:]]
        shape = (tensor.shape[0] or _BATCH, *shape)
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if dtype == "bool" or ("mask" in tensor.name and "position" not in tensor.name):
            return np.ones(shape, dtype)
        if "int" in dtype:
            bound = _count(graph, tensor)
            return rng.integers(min(1, bound - 1), bound, shape).astype(dtype)
        return rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(make, graph.input)


def _count(graph: Any, tensor: Tensor) -> int:
    """The number of ids that an input may hold: the size of the smallest table that reads it."""
    counts = []
    for node in nodes(graph):
        if node.is_input or tensor not in node.input_tensors:
            continue
        layer = node.operation
        if isinstance(layer, Functional):
            inner = zip(node.input_tensors, layer.inputs, strict=True)
            counts += [_count(layer, own) for outer, own in inner if outer is tensor]
            continue
        parts = [layer, *flatten_layers(layer)] if isinstance(layer, keras.Layer) else []
        sizes = [getattr(p, "input_dim", None) for p in parts if hasattr(p, "embeddings")]
        counts += [size for size in sizes if size]
    return min(counts, default=2)


def _sequences(model: keras.Model) -> list[bool]:
    """For each output, whether axis 1 may be the length of an input; empty if nothing tells it.

    Another axis, such as classes, may happen to be as long as the generated inputs.
    """
    if not has_inputs(model):
        return []
    lengths = {tensor.shape[1] for tensor in model.inputs if len(tensor.shape) > 1}
    return [len(x.shape) > 1 and x.shape[1] in lengths for x in model.outputs]


def _reads_first(model: keras.Model) -> bool:
    """Whether a graph in the model has `x[:, 0]` or `x[:, 0, :]`, as the poolers of BERT."""
    graphs = filter(None, map(graph_of, [model, *flatten_layers(model)]))
    items = [
        node.arguments.args[1]
        for graph in graphs
        for node in nodes(graph)
        if isinstance(node.operation, GetItem)
    ]
    return any(isinstance(item, tuple | list) and is_first(item[:2]) for item in items)


def _tolerance(model: keras.Model) -> float:
    """The difference that rounding may make: 1e-5, or four steps of the narrowest dtype."""
    dtypes = {layer.compute_dtype for layer in flatten_layers(model)}
    steps = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
    return max([1e-5, *(4 * steps[dtype] for dtype in dtypes & steps.keys())])


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    if not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
        return float("inf")
    ours, theirs = np.nan_to_num(ours), np.nan_to_num(theirs)
    scale = np.abs(theirs).max(initial=0.0)
    return float(np.abs(ours - theirs).max(initial=0.0) / (scale or 1.0))


def _run(model: keras.Model, batch: Nested) -> list[np.ndarray]:
    with keras.StatelessScope():  # states and seeds stay
        outputs = keras.tree.flatten(model(batch, training=False))
    return [keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")) for x in outputs]
