"""Training on many devices: how weights are laid out on a mesh, and how workers find each other.

On JAX, `keras.distribution` runs one model on a mesh of devices; this file says which weights to
split. Heads, feed-forward units and the vocabulary are split among the devices of one axis, the
rows of a batch among those of the other (Shoeybi et al. 2019, section 3).
"""

import re
import socket
import time
from collections.abc import Iterator, Sequence

import keras

from keras_attn._keras import flatten_layers
from keras_attn.layers import MultiHeadCrossAttention, MultiHeadSelfAttention
from keras_attn.models.parts import SPLIT_WEIGHTS


def layout_map(
    mesh: keras.distribution.DeviceMesh,
    *,
    batch_axis: str = "batch",
    model_axis: str = "model",
    fully_sharded: bool = False,
) -> keras.distribution.LayoutMap:
    """The layout of every model of `keras_attn.models`, for `keras.distribution.ModelParallel`.

    Keras places each weight when it is created, so set the distribution before the model is built
    or loaded. An optimizer's state has the layout of its weights.

    Only `check` says whether the mesh is suitable for a model: a layout knows paths, and neither
    the model nor its shapes. Without it, a model that has no weights of these paths stays whole on
    each device, without a warning, and heads that do not divide give an error of JAX's.

    Args:
        mesh: the devices, with at least two named axes.
        batch_axis: the axis of the mesh over which the rows of a batch are split.
        model_axis: the axis of the mesh over which heads, feed-forward units and vocabulary are
            split.
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
    for path, _, axis in SPLIT_WEIGHTS:
        axes: list[str | None] = [None]
        if not path.endswith("/bias"):
            axes = [batch_axis if fully_sharded else None] * 2
        axes[axis] = model_axis
        layout[path] = tuple(axes)
    return layout


def check(model: keras.Model, layout: keras.distribution.LayoutMap) -> None:
    """Raise unless the model's weights can be split evenly over the devices of the layout's mesh.

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


def wait_for_workers(addresses: Sequence[str], index: int, seconds: float = 300.0) -> None:
    """Return when every worker has called this, or say which one did not come up.

    Call it before `jax.distributed.initialize` or `tf.distribute.MultiWorkerMirroredStrategy`,
    which wait for the others as well, but name no address, or wait for ever. The first worker
    listens at its port until all are there; the port is then free for them.

    Args:
        addresses: "host:port" of each worker.
        index: which of them this one is.
        seconds: how long to wait.

    Raises:
        ValueError: an address is not "host:port" with a port up to 65535, or `index` is not one of
            an address.
        TimeoutError: a worker did not come up in time. The first worker names each that is missing;
            another one that has reached the first names those of which one is missing.

    Example:
    >>> wait_for_workers(["localhost:0"], 0)  # alone
    """
    wrong = [
        address
        for address in addresses
        if not re.fullmatch(r".+:\d{1,5}", address) or int(address.rsplit(":")[-1]) > _LAST_PORT
    ]
    if wrong or not addresses:
        raise ValueError(f"`addresses` must be 'host:port' each, got {', '.join(wrong) or 'none'}")
    if index not in range(len(addresses)):
        raise ValueError(f"`index` must be one of the {len(addresses)} addresses, got {index}")
    host, port = addresses[0].rsplit(":", 1)
    end = time.monotonic() + seconds
    if index == 0:
        missing = _meet(len(addresses), int(port), end)
    else:
        missing = _join(len(addresses), (host.strip("[]"), int(port)), index, end)
    if missing:
        named = [f"{i} at {addresses[i]}" for i in sorted(missing)]
        waits = f"still waits for worker {', '.join(named)}"
        if index and 0 not in missing:
            waits = f"has reached worker 0, and still waits for worker {' or '.join(named)}"
        raise TimeoutError(f"after {seconds:g} s, worker {index} {waits}")


def _meet(count: int, port: int, end: float) -> set[int]:
    """Wait for the other workers at a port and tell them when all are there; the missing ones."""
    missing, here = set(range(1, count)), []
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    with socket.create_server(("", port), family=family, dualstack_ipv6=both) as server:
        while missing and time.monotonic() < end:
            server.settimeout(max(end - time.monotonic(), 0.001))  # 0 would not wait at all
            try:
                connection, _ = server.accept()
                here.append(connection)
                connection.settimeout(1)
                missing.discard(int(connection.recv(16)))
            except (OSError, ValueError):  # the time is over, or somebody else
                continue
        for connection in here:
            if not missing:
                connection.sendall(_ALL_HERE)
            connection.close()
    return missing


def _join(count: int, first: tuple[str, int], index: int, end: float) -> set[int]:
    """Wait for the first worker's word that all are there; otherwise those that may be missing."""
    missing = {0}
    while time.monotonic() < end:
        try:
            left = max(end - time.monotonic(), 0.001)
            with socket.create_connection(first, timeout=left) as connection:
                missing = set(range(1, count)) - {index} or {0}  # the first one is there
                connection.sendall(str(index).encode())
                if connection.recv(len(_ALL_HERE)) == _ALL_HERE:
                    return set()
        except OSError:
            pass  # it is not there yet, or the time is over
        time.sleep(0.1)
    return missing


_ALL_HERE = b"all workers are here"
_LAST_PORT = 65535


def _parts(
    model: keras.Model, layout: keras.distribution.LayoutMap
) -> Iterator[tuple[str, int, str | None, str | None]]:
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
            known = [row for row in SPLIT_WEIGHTS if re.fullmatch(row[0], weight.path)]
            names = {split: what for _, what, split in known}
            other = "model width" if known else "an axis"  # of a row that the user added
            # A layer that is not ours may have more axes; those after are not split.
            for index, (size, axis) in enumerate(zip(weight.shape, axes.axes, strict=False)):
                yield names.get(index, other), size, axis, weight.path
