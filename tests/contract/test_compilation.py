"""Eager, graph and XLA agree, and every layer lowers for accelerators on a CPU."""

import numpy as np
import pytest
from keras import tree

from tests.backend import BACKEND, arrays, call_with, compiled, is_float, loss_of, tensors
from tests.cases import CALLED, built

XLA = [False, True] if BACKEND == "tensorflow" else [True]  # JAX always compiles with XLA
CALL = pytest.mark.parametrize("case", CALLED, ids=str)


def assert_close(one, other):
    def close(have, want):
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)

    tree.map_structure(close, arrays(one), arrays(other))


# A second case of a layer shares most of its code with the first, and every case runs in a graph
# with unknown lengths, which has more to get right than one with known lengths.
KNOWN_LENGTHS = ("MultiHeadSelfAttention", "TransformerDecoderBlock", "BahdanauAttention")
ONCE_COMPILED = [
    pytest.param(
        case,
        xla,
        id=f"{case}-{'xla' if xla else 'graph'}",
        marks=pytest.mark.slow if case.variant or not (xla or str(case) in KNOWN_LENGTHS) else (),
    )
    for case in CALLED
    for xla in XLA
]


@pytest.mark.backends("tensorflow", "jax", reason="Keras compiles nothing on torch")
@pytest.mark.parametrize(("case", "xla"), ONCE_COMPILED)
def test_compiled_and_eager_agree(case, xla):
    layer, inputs = built(case), tensors(case.values())
    assert_close(compiled(lambda given: layer(**given), xla=xla)(inputs), layer(**inputs))


@pytest.mark.backends("tensorflow", reason="a graph with unknown lengths is TensorFlow's")
@CALL
def test_a_graph_with_unknown_lengths_agrees_with_eager(case):
    import tensorflow as tf

    layer = built(case)
    signature = tree.map_structure(
        lambda spec: tf.TensorSpec(spec.dynamic_shape, spec.dtype), case.inputs
    )
    graph = tf.function(lambda given: layer(**given), input_signature=[signature])
    assert_close(graph(tensors(case.values())), layer(**case.values()))


@pytest.mark.backends("jax", reason="jax.export lowers without the device")
@CALL
def test_forward_and_gradient_lower_for_tpu_and_cuda(case):
    import jax

    layer, inputs = built(case), case.values()
    leaves = tree.flatten(tensors(inputs))

    def loss(weights, floats):
        rest = iter(floats)
        given = [next(rest) if is_float(leaf) else leaf for leaf in leaves]
        call = tree.pack_sequence_as(inputs, given)
        return loss_of(call_with(layer, weights, **call, **case.training))

    weights = [variable.value for variable in layer.trainable_variables]
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    floats = [leaf for leaf in leaves if is_float(leaf)]
    exported = jax.export.export(step, platforms=["tpu", "cuda"])(weights, floats)
    assert exported.platforms == ("tpu", "cuda")
