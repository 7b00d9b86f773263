"""Sinusoids against the paper in numpy; rotations against complex numbers and transformers."""

import numpy as np
import pytest

from keras_attn.ops import positions
from tests.backend import arrays, tensors

B, T, N, H = 2, 5, 3, 14
INPUTS = np.random.default_rng(0).normal(size=(B, T, N, H)).astype("float32")


@pytest.mark.parametrize("wavelength", [10_000.0, 100.0])
def test_sinusoids_equal_the_paper(wavelength):
    where, dim = np.array([[0, 1, 5], [2, 300, 7]]), 6
    found = arrays(positions.sinusoids(tensors(where), dim, wavelength))
    for column in range(dim):
        angle = where / wavelength ** ((column - column % 2) / dim)
        expected = np.cos(angle) if column % 2 else np.sin(angle)
        np.testing.assert_allclose(found[..., column], expected, atol=2e-5)


@pytest.mark.parametrize("dim", [0, 5, -2])
def test_an_odd_width_raises(dim):
    with pytest.raises(ValueError, match=f"`dim` must be a positive even number, got {dim}"):
        positions.sinusoids(tensors(np.arange(3)), dim)


@pytest.mark.parametrize("width", [14, 6])
def test_rotation_equals_a_product_of_complex_numbers(width):
    half, where = width // 2, np.arange(3, 3 + T)
    found = arrays(
        positions.rotate(
            tensors(INPUTS), positions.rotary_angles(tensors(where), width, 100.0, 2.0)
        )
    )
    turn = np.exp(1j * (where / 2.0)[:, None] * 100.0 ** (-2 * np.arange(half) / width))
    numbers = INPUTS[..., :half] + 1j * INPUTS[..., half:width]
    turned = numbers * turn[:, None]
    expected = np.concatenate([turned.real, turned.imag, INPUTS[..., width:]], -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_rotation_equals_transformers():
    import torch
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    angle = np.arange(T)[:, None] * 10_000.0 ** (-np.arange(0, H, 2) / H)
    whole = torch.tensor(np.concatenate([angle, angle], -1)[None], dtype=torch.float32)
    rows = torch.tensor(INPUTS)
    expected, _ = apply_rotary_pos_emb(rows, rows, whole.cos(), whole.sin(), unsqueeze_dim=2)
    found = arrays(
        positions.rotate(tensors(INPUTS), positions.rotary_angles(tensors(np.arange(T)), H))
    )
    np.testing.assert_allclose(found, expected.cpu().numpy(), rtol=1e-5, atol=1e-5)


def test_each_row_may_have_its_own_positions():
    where = np.array([[0, 1, 2, 0, 1], [4, 3, 2, 1, 0]])
    rows = arrays(positions.rotate(tensors(INPUTS), positions.rotary_angles(tensors(where), H)))
    for row in range(B):
        alone = positions.rotate(
            tensors(INPUTS[row : row + 1]), positions.rotary_angles(tensors(where[row]), H)
        )
        np.testing.assert_allclose(rows[row], arrays(alone)[0], rtol=1e-5, atol=1e-6)
