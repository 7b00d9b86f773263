"""Symbolic shape and dtype are the real ones, with batch and lengths unknown."""

import keras
import pytest
from keras import tree

from tests.cases import CALLED, built


def assert_fits(symbolic, real):
    tree.assert_same_structure(symbolic, real)
    for promised, given in zip(tree.flatten(symbolic), tree.flatten(real), strict=True):
        assert len(promised.shape) == len(given.shape)
        for have, want in zip(promised.shape, given.shape, strict=True):
            assert have in (None, want), (promised.shape, given.shape)
        assert promised.dtype == keras.backend.standardize_dtype(given.dtype)


@pytest.mark.parametrize("case", CALLED, ids=str)
def test_the_symbolic_output_is_the_real_one(case):
    assert_fits(built(case)(**case.symbols()), built(case)(**case.values()))


@pytest.mark.parametrize("case", [case for case in CALLED if case.scores], ids=str)
def test_the_symbolic_scores_are_the_real_ones(case):
    options = {"return_attention_scores": True}
    symbolic = built(case)(**case.symbols(), **options)
    real = built(case)(**case.values(), **options)
    assert_fits(symbolic, real)
    assert len(real) > 1


@pytest.mark.parametrize("case", CALLED, ids=str)
def test_a_symbolic_axis_is_unknown_only_where_the_inputs_are(case):
    known = {size for spec in tree.flatten(case.inputs) for size in spec.shape}
    for symbol, real in zip(
        tree.flatten(built(case)(**case.symbols())),
        tree.flatten(built(case)(**case.values())),
        strict=True,
    ):
        for have, want in zip(symbol.shape, real.shape, strict=True):
            assert have == want or want in known, (symbol.shape, real.shape)


@pytest.mark.parametrize("case", CALLED, ids=str)
def test_a_policy_decides_the_output_dtype(case):
    keras.config.set_dtype_policy("mixed_bfloat16")
    layer = case.make()
    real = layer(**case.values())
    assert_fits(layer(**case.symbols()), real)
