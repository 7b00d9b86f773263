"""What `model.fit` changes: the variables of a model, its optimizer and its metrics."""

import keras
import numpy as np

from keras_attn._typing import Nested, Tensor
from keras_attn.backend import Part


def shapes(batch: Nested) -> list[tuple]:
    """The shape of each tensor of a batch or specification, None where it leaves a size open."""
    found = []
    for leaf in keras.tree.flatten(getattr(batch, "element_spec", batch)):
        shape = getattr(leaf, "shape", ())
        if getattr(shape, "rank", 0) is None:
            raise ValueError(f"`batch` must have tensors of known rank, got {leaf}")
        found.append(tuple(shape))
    return found


def build(model: keras.Model, batch: Nested) -> None:
    """Create every variable that `fit` changes, from a batch of the data or its specification.

    An open number of rows becomes that of the first tensor which states one, else 1. For open
    lengths 1 is tried first, then what other tensors state, until the losses can be computed.
    """
    found = shapes(batch)
    rows = next((shape[0] for shape in found if shape and shape[0] is not None), 1)
    sizes = [size for shape in found for size in shape[1:]]
    known = sorted({size for size in sizes if size}) if None in sizes else []
    batch, errors = getattr(batch, "element_spec", batch), []
    for length in dict.fromkeys([1, *known]):
        try:
            return _see(model, _filled(batch, rows, length))
        except Exception as error:  # each backend has its own for shapes that do not agree
            errors.append(error)
    raise ValueError(
        "`batch` must be one that the model can be trained on (give one batch of the data, if it "
        f"leaves sizes open), got shapes {found}: {errors[0]}"
    ) from errors[0]


def _see(model: keras.Model, batch: Nested) -> None:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    y_pred = model(x, training=False)
    model.compute_loss(x, y, y_pred, sample_weight, training=False)
    model.compute_metrics(x, y, y_pred, sample_weight)
    model.optimizer.build(model.trainable_variables)


def _filled(batch: Nested, rows: int, length: int) -> Nested:
    """A batch; zeros where there is only its specification, of the given sizes where it is open."""

    def tensor(leaf: Tensor) -> Tensor:
        has_values = hasattr(leaf, "__array__") and not isinstance(leaf, keras.KerasTensor)
        if not hasattr(leaf, "shape") or has_values:
            return keras.ops.convert_to_tensor(leaf)
        sizes = enumerate(leaf.shape)
        shape = [(length if axis else rows) if size is None else size for axis, size in sizes]
        return keras.ops.zeros(shape, keras.backend.standardize_dtype(leaf.dtype))

    return keras.tree.map_structure(tensor, batch)


def variables_of(model: keras.Model) -> list:
    """The variables that `fit` changes, each once."""
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
