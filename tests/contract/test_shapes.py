"""Symbolic shapes and dtypes match the computed ones, with batch and lengths unknown."""

import inspect

import keras
import numpy as np
import pytest
from keras import tree

from keras_attn import layers
from tests.backend import arrays, called
from tests.cases import CALLED, B, S, T, built, few_but_on_torch


def assert_matches(symbolic, real):
    tree.assert_same_structure(symbolic, real)
    for promised, given in zip(tree.flatten(symbolic), tree.flatten(real), strict=True):
        assert len(promised.shape) == len(given.shape)
        for have, want in zip(promised.shape, given.shape, strict=True):
            assert have in (None, want), (promised.shape, given.shape)
        assert promised.dtype == keras.backend.standardize_dtype(given.dtype)


@pytest.mark.parametrize("case", CALLED, ids=str)
def test_symbolic_output_matches_the_computed_output(case):
    assert_matches(built(case)(**case.symbols()), called(built(case), **case.values()))


def _lengths(case):
    shapes = [spec.shape for spec in tree.flatten(case.inputs)]
    return [name for name in SIZES if any(SIZES[name] in shape for shape in shapes)]


SIZES = {"B": B, "T": T, "S": S}


@pytest.mark.parametrize(
    ("case", "axis"), few_but_on_torch([(case, axis) for case in CALLED for axis in _lengths(case)])
)
@pytest.mark.slow_on("jax")  # which compiles each operation
def test_an_axis_of_length_zero_gives_finite_outputs_or_a_named_error(case, axis):
    def cut(value):
        return value[tuple(slice(0 if n == SIZES[axis] else n) for n in value.shape)]

    values = tree.map_structure(cut, case.values())
    needed = axis in ("T", "S") and case.layer is layers.AttentionDecoder
    if needed or (axis == "T" and "masked_positions" in values):
        with pytest.raises(ValueError, match="must have at least one position, got shape"):
            built(case)(**values)
        return
    for options in ({}, case.training if axis != "B" else {}):
        outputs = tree.flatten(arrays(built(case)(**values, **options)))
        assert all(np.isfinite(output).all() for output in outputs)


@pytest.mark.parametrize("case", [case for case in CALLED if case.scores], ids=str)
def test_symbolic_attention_scores_match_the_computed_scores(case):
    options = {"return_attention_scores": True}
    symbolic = built(case)(**case.symbols(), **options)
    real = called(built(case), **case.values(), **options)
    assert_matches(symbolic, real)
    assert len(real) > 1


@pytest.mark.parametrize("case", CALLED, ids=str)
def test_output_axes_are_unknown_only_where_input_axes_are(case):
    known = {size for spec in tree.flatten(case.inputs) for size in spec.shape}
    for symbol, real in zip(
        tree.flatten(built(case)(**case.symbols())),
        tree.flatten(called(built(case), **case.values())),
        strict=True,
    ):
        for have, want in zip(symbol.shape, real.shape, strict=True):
            assert have == want or want in known, (symbol.shape, real.shape)


@pytest.mark.parametrize("case", CALLED, ids=str)
def test_the_dtype_policy_sets_the_output_dtype(case):
    keras.config.set_dtype_policy("mixed_bfloat16")
    layer = case.build(case.make())
    assert_matches(layer(**case.symbols()), called(layer, **case.values()))


@pytest.mark.parametrize("case", CALLED, ids=str)
def test_compute_output_shape_matches_the_computed_output(case):
    shapes = tree.map_structure(lambda spec: spec.shape, case.inputs)
    names = list(inspect.signature(built(case).compute_output_shape).parameters)
    if len(names) == 1:  # Keras gives it the shape of the first input
        told = built(case).compute_output_shape(next(iter(shapes.values())))
    else:
        known = {f"{name}_shape": shape for name, shape in shapes.items()}
        told = built(case).compute_output_shape(**{n: known[n] for n in names if n in known})
    real = called(built(case), **case.values())
    if isinstance(real, tuple):  # the cache comes after the output
        real = real[0]
    if isinstance(real, dict):
        assert told == {name: tuple(output.shape) for name, output in real.items()}
    else:
        assert told == tuple(real.shape)


@pytest.mark.parametrize("case", CALLED, ids=str)
def test_a_symbolic_call_does_not_run_the_layer(case, monkeypatch):
    layer = case.build(case.make())

    def call(*_, **__):
        raise AssertionError("the layer ran")

    monkeypatch.setattr(layer, "call", call)
    tree.assert_same_structure(layer(**case.symbols()), built(case)(**case.symbols()))


def _has_one_input(case):
    _, *others = inspect.signature(case.layer.call).parameters.values()
    first = next(iter(case.inputs.values()))
    alone = not {"value", "context"} & set(case.inputs) and not isinstance(first, list)
    alone = alone and case.layer is not layers.SpanHead  # Keras wraps only layers with one output
    return alone and all(p.default is not p.empty for p in others[1:])


@pytest.mark.parametrize("case", [case for case in CALLED if _has_one_input(case)], ids=str)
@pytest.mark.parametrize("steps", [None, 3])
def test_a_layer_runs_inside_time_distributed(case, steps):
    name, spec = next(iter(case.inputs.items()))
    layer, step = built(case), case.values()[name]
    expected = arrays(layer(step))
    values = np.stack([step, step[::-1], step], axis=1)  # [B, steps, ...]
    inputs = keras.Input((steps, *spec.shape[1:]), dtype=spec.dtype)
    outputs = keras.layers.TimeDistributed(layer)(inputs)
    assert outputs.shape == (None, steps, *expected.shape[1:])
    found = arrays(keras.Model(inputs, outputs)(values))
    for index, want in enumerate((expected, expected[::-1], expected)):
        np.testing.assert_allclose(found[:, index], want, rtol=1e-4, atol=1e-5)
