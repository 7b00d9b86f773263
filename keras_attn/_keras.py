"""Every private or undocumented name of Keras, keras-hub and TensorFlow that the package uses.

Each has its reason. Where a substitute is exported one day, this file is the only place to change.
It also holds the decorator under which Keras saves our objects.
"""

import functools
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import keras

# Where `keras.ops.dot_product_attention` finds its function, and `keras_attn.enable` puts ours.
from keras.src.backend import nn as _backend_nn

# The loop of keras.layers.RNN, a function in Keras 3.15 and a module with it in 3.16.
# `keras.ops.scan` gives no bound on the steps to TensorFlow, and XLA then refuses the gradient.
from keras.src.backend import rnn as _rnn
from keras.src.backend.common import global_state

# The mask that travels with a tensor. Keras fills in an argument `mask` only where the inputs are
# the one tensor of a call, and has no public reader or writer of its masks.
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

# The dtype to which a layer's call casts its weights; recomputation must enter the same scope.
from keras.src.backend.common.variables import AutocastScope, get_autocast_scope

# keras.layers.RNN asks for this class by isinstance before it prepares a cell's dropout.
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

# The reduction of a loss with weights and a mask, as every loss of Keras has it.
from keras.src.losses.loss import reduce_weighted_values

# A functional model, to distinguish one that only runs its graph from one with custom code.
from keras.src.models.functional import Functional

# A call in its graph; what `keras.ops.dot_product_attention` and `x[...]` are there, no layers.
from keras.src.ops.nn import DotProductAttention
from keras.src.ops.node import Node
from keras.src.ops.numpy import GetItem

# What layers and operations without a seed draw from; a checkpoint must hold its state.
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, global_seed_generator

from keras_attn._typing import Nested, Size, Tensor

backend_nn: Any = _backend_nn
rnn = getattr(_rnn, "rnn", _rnn)

# The method of Keras' and keras-hub's attention layers that gets projected heads and a mask: where
# `upgrade` puts our kernels into a layer that keeps its class.
ATTENTION_HOOK = "_compute_attention"
# The methods of Keras' own layers that take part in it, and stay as they are with our kernels.
ATTENTION_METHODS = (ATTENTION_HOOK, "_masked_softmax")
# The projections in Keras' attention layers with heads: we compute with them and copy weights.
_PROJECTIONS = {part: f"_{part}_dense" for part in ("query", "key", "gate", "value", "output")}
# What `build` makes in Keras' attention layers, in its order: `upgrade` gives it to a counterpart.
BUILT_ATTENTION = (
    *(_PROJECTIONS[part] for part in ("query", "key", "gate", "value")),
    *("_softmax", "_dropout_layer", _PROJECTIONS["output"]),
    *("_dot_product_equation", "_combine_equation", "feature_dim"),
    *("scale", "concat_score_weight", "_build_shapes_dict", "_path"),
)

# Every saved object carries the package name `keras_attn`.
register = functools.partial(keras.saving.register_keras_serializable, package="keras_attn")

__all__ = [
    "ATTENTION_HOOK",
    "ATTENTION_METHODS",
    "BUILT_ATTENTION",
    "GLOBAL_SEED_GENERATOR",
    "AutocastScope",
    "DotProductAttention",
    "DropoutRNNCell",
    "FixedSeed",
    "Functional",
    "GetItem",
    "backend_nn",
    "call_number",
    "check_inputs",
    "converting",
    "deserialize_shared",
    "dropout_seeds",
    "flatten_layers",
    "get_autocast_scope",
    "get_keras_mask",
    "global_seed_generator",
    "global_state",
    "graph_of",
    "hub_scale",
    "hub_sublayer",
    "hub_window",
    "logits",
    "nodes",
    "option",
    "projection",
    "reduce_weighted_values",
    "register",
    "resource",
    "returns_scores",
    "rnn",
    "serialize_shared",
    "set_alone",
    "set_keras_mask",
    "takes_strings",
    "takes_training",
    "under_xla",
]


def _build_without_data() -> None:
    """Let `fit` and `evaluate` run under `tf.distribute` where the data has bool masks.

    To learn shapes and dtypes for the build, Keras 3.15 averages a batch over the replicas, which
    TensorFlow does not do for bools, nor for the targets in a tuple (keras #20585). The batch, and
    what was read ahead, is then lost to a generator; and `fit` with `validation_steps` reads on
    where its last evaluation ended, maybe at the end. The specification of the data has the same
    information. Remove this when Keras builds from it.
    """
    from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

    build = getattr(TensorFlowTrainer, "_maybe_symbolic_build", None)
    if build is None:  # a later Keras
        return

    def of_one_replica(spec: Any) -> Any:
        spec = getattr(spec, "_value_specs", [spec])[0]
        return spec if hasattr(spec, "dtype") else None  # what may be missing is missing

    @functools.wraps(build)
    def build_without_data(self: Any, iterator: Any = None, data_batch: Nested = None) -> Any:
        if iterator is not None and self._distribute_strategy is not None:
            specs = iterator._distributed_dataset.element_spec
            iterator, data_batch = None, keras.tree.map_structure(of_one_replica, specs)
        return build(self, iterator, data_batch)

    TensorFlowTrainer._maybe_symbolic_build = build_without_data


def _average_logs_of_workers() -> None:
    """Let `fit` and `evaluate` run under `tf.distribute.MultiWorkerMirroredStrategy`.

    To average the logs of a step over the replicas, Keras 3.15 asks for a mean over axis 0 as well,
    which a number does not have (keras #20585, #20329). Within one process it takes the mean over
    the replicas alone, as here. Remove this when Keras trains with several workers.
    """
    from keras.src.backend.tensorflow import trainer

    reduce_per_replica = trainer.reduce_per_replica

    @functools.wraps(reduce_per_replica)
    def over_replicas(values: Nested, strategy: Any, reduction: str) -> Any:
        workers = trainer._collective_all_reduce_multi_worker(strategy)
        if not workers or reduction not in ("auto", "mean"):
            return reduce_per_replica(values, strategy, reduction)
        return keras.tree.map_structure(lambda v: strategy.reduce("MEAN", v, axis=None), values)

    trainer.reduce_per_replica = over_replicas


if keras.backend.backend() == "tensorflow":
    _build_without_data()
    _average_logs_of_workers()


class FixedSeed(keras.random.SeedGenerator):
    """A seed generator that always gives one seed: keras.random accepts no plain tensor."""

    def __init__(self, seed: Tensor) -> None:
        self._seed = seed
        self._initial_seed = 0  # torch's dropout asks whether there is one

    def next(self, ordered: bool = True) -> Tensor:
        """The seed."""
        return self._seed


def under_xla(graph: object) -> bool:
    """Whether a graph of TensorFlow is built for XLA; of this, TensorFlow has no public word."""
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    return GraphOrParentsInXlaContext(graph)


def resource(tokenizer: Any) -> object:
    """What TensorFlow saves of a `SentencepieceTokenizer`, which is no trackable object itself."""
    return tokenizer._model_resource


def flatten_layers(layer: keras.layers.Layer, recursive: bool = True) -> list[keras.layers.Layer]:
    """All layers inside a layer, or those just inside. Only a model has a public list of them."""
    return layer._flatten_layers(include_self=False, recursive=recursive)


def graph_of(model: keras.layers.Layer) -> Functional | None:
    """The functional model with the graph of a functional or Sequential model, otherwise None.

    A Sequential model makes one as soon as it has inputs, and has no public name for it.
    """
    model = model._functional if isinstance(model, keras.Sequential) else model
    return model if isinstance(model, Functional) else None


def nodes(model: keras.Model) -> list[Node]:
    """The calls in the graph of a functional model, in the order in which they run.

    The public `operations` names what is called, not how often and on which tensors.
    """
    by_depth = model._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def call_number(node: Node) -> int:
    """How many calls of its layer or operation, in any graph, were made before this one."""
    return node.operation._inbound_nodes.index(node)


def takes_strings(layer: keras.layers.Layer) -> None:
    """Let Python's and TensorFlow's strings reach `call` as they are.

    Keras would convert them to tensors, and no other backend has a tensor for them.
    """
    layer._convert_input_args = False
    layer._allow_non_tensor_positional_args = True


def projection(layer: keras.layers.Layer, part: str) -> keras.layers.Layer:
    """A projection of a Keras attention layer with heads: "query", "key", "value" and so on."""
    return getattr(layer, _PROJECTIONS[part])


def option(name: str) -> property:
    """A property for an argument that Keras' `MultiHeadAttention` keeps under a private name.

    `GroupQueryAttention` has the same arguments under public names.
    """
    return property(lambda layer: getattr(layer, f"_{name}"))


def set_alone(layer: keras.layers.Layer, name: str, value: Any) -> None:
    """Set "trainable", "dtype_policy" or "dropout" of a layer, and nothing else.

    The public setter of trainable also sets it in the layer's parts and weights; that of
    dtype_policy changes the map that a loaded quantized model shares with all its layers. There is
    none for dropout, which the constructor refuses together with flash attention.
    """
    setattr(layer, f"_{name}", value)


def dropout_seeds(layer: keras.layers.Layer) -> keras.random.SeedGenerator:
    """The seeds of the dropout of an attention layer: with heads, those of its dropout layer."""
    return (layer._dropout_layer if hasattr(layer, "_dropout_layer") else layer).seed_generator


def returns_scores(layer: keras.layers.Layer) -> bool:
    """Whether the running call returns the weights: `GroupQueryAttention` keeps it, to read it."""
    return getattr(layer, "_return_attention_scores", False)


def check_inputs(layer: keras.layers.Layer, inputs: list, mask: list | None) -> None:
    """What Keras' attention layers without heads check before they compute."""
    layer._validate_inputs(inputs=inputs, mask=mask)


def logits(layer: keras.layers.Layer, query: Tensor, key: Tensor) -> Tensor:
    """The logits of Keras' attention layers without heads, which each class has its own way for."""
    return layer._calculate_scores(query=query, key=key)


def hub_scale(layer: keras.layers.Layer) -> float:
    """The scale of the logits in keras-hub's attention layers after LLaMA."""
    return layer._inv_norm_factor


def hub_window(layer: keras.layers.Layer, mask: Tensor, start: Size) -> Tensor:
    """The mask with the window that keras-hub's Gemma applies in its own code."""
    return layer._mask_sliding_window(mask, start)


def hub_sublayer(layer: keras.layers.Layer, name: str) -> keras.layers.Layer | None:
    """A sublayer, by its layer name, of a Transformer block of keras-hub; None before `build`."""
    return getattr(layer, f"_{name}", None)


def takes_training(layer: keras.layers.Layer) -> bool:
    """Whether `call` takes `training`. Wrapped cells can only be asked by this attribute."""
    return layer._call_has_training_arg


def serialize_shared(layer: Any) -> Any:
    """The config of an object inside a layer, which saving and cloning leave shared.

    Keras marks an object that it meets twice with a `shared_object_id`, in the second config and,
    afterwards, in the first. The first of a nested object is a copy by then, so that the mark is
    lost and the file does not load. Here every nested object carries its mark from the start.
    """
    config = keras.saving.serialize_keras_object(layer)
    saving = global_state.get_global_attribute("shared_objects/id_to_config_map") is not None
    if isinstance(config, dict) and (saving or _clones() is not None):
        config["shared_object_id"] = id(layer)
    return config


def deserialize_shared(config: Any) -> Any:
    """The object of a config from `serialize_shared`, one for all configs of one mark.

    Anything but a config is returned as it is. While a file is loaded, Keras keeps the objects;
    `keras.models.clone_model` keeps the clones of the layers that it knows in a dict, to which
    those of nested objects are added.
    """
    if not isinstance(config, dict):
        return config
    clones, mark = _clones(), config.get("shared_object_id")
    if clones is None or mark is None:
        return keras.saving.deserialize_keras_object(config)
    if mark not in clones:
        clones[mark] = keras.saving.deserialize_keras_object(config)
    return clones[mark]


def converting() -> bool:
    """Whether `model.export` traces a graph for LiteRT, ONNX or OpenVINO.

    Their runtimes lack the lists of tensors that a loop of TensorFlow makes. No public function
    tells this, and the SavedModel that all of them start from is traced like any other.
    """
    return any(frame.f_globals.get("__name__") in _CONVERTERS for frame in _frames())


def _clones() -> dict | None:
    """`{id(layer): clone}` of the `clone_model` that is running; there is no public name for it."""
    for frame in _frames():
        if frame.f_globals.get("__name__") == _CLONING and "cache" in frame.f_locals:
            return frame.f_locals["cache"]
    return None


def _frames() -> Iterator[FrameType]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


_CLONING = "keras.src.models.cloning"
_CONVERTERS = tuple(f"keras.src.export.{name}" for name in ("litert", "onnx", "openvino"))
