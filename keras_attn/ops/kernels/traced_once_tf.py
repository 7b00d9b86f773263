"""One graph of a kernel on TensorFlow for all layers of a model that call it alike."""

from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf

from keras_attn.ops.kernels.plan_tf import under_xla


def traced_once(function: Callable, identity: Hashable, tensors: Any) -> Any:
    """`function(tensors)`; in a graph, a call of one traced function for each identity.

    Args:
        function: of a nest of tensors.
        identity: equal for functions that do the same with tensors of the same shapes and dtypes.
        tensors: a nest of tensors and None.
    """
    # XLA compiles the whole anyway, and the function would not know that it is for XLA.
    if tf.executing_eagerly() or under_xla():
        return function(tensors)
    graph = tf.compat.v1.get_default_graph()
    specs = tf.nest.map_structure(_spec, tensors)
    while getattr(graph, "outer_graph", None) is not None and hasattr(graph.outer_graph, "inputs"):
        graph = graph.outer_graph  # a loop's body or a branch shares with the rest
    # An attribute, so that the functions live as long as the graph.
    if not hasattr(graph, "keras_attn_traced"):
        graph.keras_attn_traced = {}
    traced = graph.keras_attn_traced
    key = (identity, str(specs))
    if key not in traced:
        whole = tf.function(
            lambda tensors: function(tensors), autograph=False
        ).get_concrete_function(specs)
        if whole.captured_inputs:  # of the graph in which it was traced, which others cannot see
            return function(tensors)
        traced[key] = whole
    return traced[key](tensors)


def _spec(tensor: Any) -> Any:
    return None if tensor is None else tf.TensorSpec(tensor.shape, tensor.dtype)
