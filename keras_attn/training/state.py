"""What `model.fit` changes: the variables of a model, its optimizer and its metrics."""

import keras
import numpy as np

from keras_attn._typing import Nested, Tensor
from keras_attn.backend import Part


def build(model: keras.Model, batch: Nested) -> None:
    """Make all of them, from a batch of the data or its specification, as `fit` does."""
    batch = getattr(batch, "element_spec", batch)
    shapes = [tuple(getattr(leaf, "shape", ())) for leaf in keras.tree.flatten(batch)]
    # One leaf may tell the number of rows, which another leaves open.
    rows = next((shape[0] for shape in shapes if shape and shape[0] is not None), 1)
    batch = keras.tree.map_structure(lambda leaf: _tensor(leaf, rows), batch)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    y_pred = model(x, training=False)
    model.compute_loss(x, y, y_pred, sample_weight, training=False)
    model.compute_metrics(x, y, y_pred, sample_weight)
    model.optimizer.build(model.trainable_variables)


def _tensor(leaf: Tensor, rows: int) -> Tensor:
    """A tensor of a batch of `rows`; zeros where there is only its specification."""
    has_values = hasattr(leaf, "__array__") and not isinstance(leaf, keras.KerasTensor)
    if hasattr(leaf, "shape") and not has_values:
        sizes = enumerate(leaf.shape)
        shape = [(1 if axis else rows) if size is None else size for axis, size in sizes]
        return keras.ops.zeros(shape, keras.backend.standardize_dtype(leaf.dtype))
    return keras.ops.convert_to_tensor(leaf)


def variables_of(model: keras.Model) -> list:
    """All of them, each once."""
    everything = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return list({id(variable): variable for variable in everything}.values())


def has_nan(model: keras.Model, variables: list, values: list[dict[Part, np.ndarray]]) -> bool:
    """Whether these values of `variables_of(model)` hold a NaN where it reaches trained weights.

    That is in these weights or in the optimizer, whose sums of gradients change the weights later.
    """
    watched = {id(v) for v in (*model.trainable_variables, *model.optimizer.variables)}
    return any(
        np.isnan(array).any()
        for variable, parts in zip(variables, values, strict=True)
        if id(variable) in watched
        for array in parts.values()
    )
