"""Random numbers depend only on the seed."""

import keras
import numpy as np
import pytest

from keras_attn import backend
from keras_attn.ops import random
from tests.backend import arrays, tensors


def seed(number):
    return tensors(np.array([number, 7], "uint32"))


@pytest.mark.parametrize(
    "draw",
    [
        lambda s: random.uniform((53, 31), s),
        lambda s: random.dropout(tensors(np.ones((53, 31), "float32")), 0.3, s),
    ],
    ids=["uniform", "dropout"],
)
def test_draws_depend_only_on_the_seed(draw):
    first = arrays(draw(seed(1)))
    np.testing.assert_array_equal(first, arrays(draw(seed(1))))
    assert not np.array_equal(first, arrays(draw(seed(2))))


def test_dropout_zeroes_at_its_rate_and_scales_the_others():
    found = arrays(random.dropout(tensors(np.ones((331, 307), "float32")), 0.3, seed(3)))
    np.testing.assert_allclose(
        np.unique(found), [0, 1 / 0.7], rtol=1e-5
    )  # the rate is rounded to 2^-16
    np.testing.assert_allclose((found == 0).mean(), 0.3, atol=0.01)


@pytest.mark.parametrize("shape", [(5,), (3, 1), (2, 3, 4), (7, 0)])
def test_draws_have_the_shape_and_all_of_their_bits(shape):
    assert arrays(backend.random_int16(shape, seed(3))).shape == shape
    found = arrays(backend.random_int16((2, 40_001), seed(3))).astype(int) + 2**15
    assert found.min() < 20 and found.max() > 2**16 - 20
    # Each bit, and each pair of neighbours, is a fair coin: five standard deviations of 80,002.
    bits = found[..., None] >> np.arange(16) & 1
    np.testing.assert_allclose(bits.mean((0, 1)), 0.5, atol=0.009)
    np.testing.assert_allclose((bits[:, 1:] ^ bits[:, :-1]).mean((0, 1)), 0.5, atol=0.009)


def test_a_rate_next_to_one_keeps_the_mean():
    keep, factor = random.kept((3001, 1001), 0.9999, seed(3))
    np.testing.assert_allclose(arrays(keep).mean() * factor, 1.0, atol=0.3)
    assert np.isfinite(random.kept((2,), 1 - 1e-9, seed(3))[1])


def test_seeds_are_those_of_keras():
    ours, theirs = random.SeedGenerator(7), keras.random.SeedGenerator(7)
    for _ in range(3):
        np.testing.assert_array_equal(arrays(ours.next()), arrays(theirs.next()))
    assert ours.state.name == theirs.state.name


@pytest.mark.backends("jax", reason="jax.export")
@pytest.mark.parametrize("symbols", ["b, 6, 5", "b, 6, t"])
def test_exported_code_with_symbolic_shapes_draws_the_same(symbols):
    import jax

    shape = jax.export.symbolic_shape(symbols)
    draw = jax.jit(lambda inputs, seed: random.dropout(inputs, 0.3, seed))
    specs = jax.ShapeDtypeStruct(shape, "float32"), jax.ShapeDtypeStruct((2,), "uint32")
    inputs = np.ones((3, 6, 5), "float32")
    found = jax.export.export(draw)(*specs).call(inputs, seed(3))
    np.testing.assert_array_equal(found, draw(inputs, seed(3)))


@pytest.mark.backends("jax", reason="XLA would draw again where the gradient needs the same")
def test_the_gradient_of_dropout_keeps_the_draws():
    import jax

    def total(inputs):
        return keras.ops.sum(random.dropout(inputs, 0.3, seed(3)))

    text = jax.jit(jax.grad(total)).lower(np.ones((5, 7), "float32")).as_text()
    assert text.count("optimization_barrier") == 1
