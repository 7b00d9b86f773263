"""Training on many devices: how the weights of a model are laid out on a mesh.

On JAX, `keras.distribution` runs one model on a mesh of devices; this file tells it which weights
to split. Heads, feed-forward units and the vocabulary are shared out among the devices of one axis,
the rows of a batch among those of the other (Shoeybi et al. 2019, section 3).
"""

import re
from collections.abc import Iterator
from typing import Any

import keras

from keras_attn._keras import flatten_layers
from keras_attn.layers import MultiHeadCrossAttention, MultiHeadSelfAttention
from keras_attn.models.parts import SHARED_OUT


def layout_map(
    mesh: keras.distribution.DeviceMesh,
    *,
    batch_axis: str = "batch",
    model_axis: str = "model",
    fully_sharded: bool = False,
) -> keras.distribution.LayoutMap:
    """The layout of every model of `keras_attn.models`, for `keras.distribution.ModelParallel`.

    Keras places each weight as it is made, so set the distribution before the model is built or
    loaded. An optimizer's state is laid out as its weights are. `check` tells beforehand whether
    the mesh suits a model.

    Args:
        mesh: the devices, with two named axes at least.
        batch_axis: the axis of the mesh that shares out the rows of a batch.
        model_axis: the axis of the mesh that shares out heads, feed-forward units and vocabulary.
        fully_sharded: whether `batch_axis` splits the other axis of these matrices too, so that
            each number, and its optimizer state, is on one device only (as FSDP has it); they are
            gathered where they are used. With a mesh of N x 1 this is all that is split.

    Raises:
        ValueError: the mesh has no axis of such a name, or the two are one.

    Example:
    >>> import keras
    >>> mesh = keras.distribution.DeviceMesh((1, 1), ["batch", "model"], devices=["cpu:0"])
    >>> layout = layout_map(mesh)
    >>> layout["block_0/self_attention/query/kernel"].axes
    (None, 'model')
    >>> layout["embedding/segment/embeddings"] is None
    True
    """
    missing = [axis for axis in (batch_axis, model_axis) if axis not in mesh.axis_names]
    if missing:
        raise ValueError(
            f"`mesh` must have the axes {batch_axis!r} and {model_axis!r}, "
            f"got {', '.join(map(repr, mesh.axis_names))}"
        )
    if batch_axis == model_axis:
        raise ValueError(
            f"`batch_axis` and `model_axis` must be two axes, got {batch_axis!r} for both"
        )
    layout = keras.distribution.LayoutMap(mesh)
    for path, _, axis in SHARED_OUT:
        axes: list[str | None] = [None]
        if not path.endswith("/bias"):
            axes = [batch_axis if fully_sharded else None] * 2
        axes[axis] = model_axis
        layout[path] = tuple(axes)
    return layout


def check(model: keras.Model, layout: keras.distribution.LayoutMap) -> None:
    """Raise unless the devices of the layout's mesh can share out the model's weights evenly.

    Only sizes are looked at, so the model may have been built without the distribution, and with
    fewer blocks.

    Args:
        model: a built model.
        layout: from `layout_map`.

    Raises:
        ValueError: what is no model or no layout; the model has no weight that the layout splits;
            heads (or key/value heads), feed-forward width, vocabulary or model width do not divide
            by the devices of their axis.

    Example:
    >>> import keras
    >>> from keras_attn import models
    >>> mesh = keras.distribution.DeviceMesh((1, 1), ["batch", "model"], devices=["cpu:0"])
    >>> check(models.gpt.decoder("gpt_tiny", vocabulary_size=100), layout_map(mesh))
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a built keras.Model, got {model!r}")
    if not isinstance(layout, keras.distribution.LayoutMap):
        raise ValueError(f"`layout` must be a LayoutMap, as `layout_map` gives it, got {layout!r}")
    sizes = dict(zip(layout.device_mesh.axis_names, layout.device_mesh.shape, strict=True))
    parts = list(_parts(model, layout))
    if not parts:
        names = ", ".join(weight.path for weight in model.weights[:3])
        raise ValueError(
            f"`model` must have weights that `layout` splits, got {model.name!r} with {names} ..."
        )
    for what, count, axis, path in parts:
        if axis is not None and count % sizes[axis]:
            raise ValueError(
                f"{what} must be divisible by the {sizes[axis]} devices of the mesh's axis "
                f"{axis!r}, got {count} in {path}"
            )


def _parts(
    model: keras.Model, layout: keras.distribution.LayoutMap
) -> Iterator[tuple[str, int, str | None, Any]]:
    """What is split, how many there are of it, by which axis of the mesh, and where."""
    for layer in flatten_layers(model):
        if isinstance(layer, (MultiHeadSelfAttention, MultiHeadCrossAttention)):
            # Not `kernel.path`: with LoRA the kernel is computed, and no variable.
            axes = layout[f"{layer.query_projection.path}/kernel"]
            if axes is not None:
                kv_heads = layer.num_kv_heads or layer.num_heads
                yield "heads", layer.num_heads, axes.axes[1], layer.path
                yield "key/value heads", kv_heads, axes.axes[1], layer.path
    for weight in model.weights:
        axes = layout[weight.path]
        if axes is not None:
            known = [row for row in SHARED_OUT if re.fullmatch(row[0], weight.path)]
            names = {split: what for _, what, split in known}
            other = "model width" if known else "an axis"  # of a row that the user added
            # A layer that is not ours may have more axes; those behind are not split.
            for index, (size, axis) in enumerate(zip(weight.shape, axes.axes, strict=False)):
                yield names.get(index, other), size, axis, weight.path
