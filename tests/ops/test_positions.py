"""Sinusoids against the paper in numpy."""

import numpy as np
import pytest

from keras_attn.ops import positions
from tests.backend import arrays, tensors


@pytest.mark.parametrize("wavelength", [10_000.0, 100.0])
def test_sinusoids_are_the_paper(wavelength):
    where, dim = np.array([[0, 1, 5], [2, 300, 7]]), 6
    found = arrays(positions.sinusoids(tensors(where), dim, wavelength))
    for column in range(dim):
        angle = where / wavelength ** ((column - column % 2) / dim)
        expected = np.cos(angle) if column % 2 else np.sin(angle)
        np.testing.assert_allclose(found[..., column], expected, atol=2e-5)


@pytest.mark.parametrize("dim", [0, 5, -2])
def test_an_odd_width_is_named(dim):
    with pytest.raises(ValueError, match=f"`dim` must be a positive even number, got {dim}"):
        positions.sinusoids(tensors(np.arange(3)), dim)
