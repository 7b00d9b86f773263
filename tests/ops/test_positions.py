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


def _in_transformers(kind, dim, base, **parameters):
    """The frequencies and the factor of transformers' own function of that name."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    length = parameters.pop("seq_len", None)
    config = LlamaConfig(
        hidden_size=3 * dim,
        num_attention_heads=3,
        max_position_embeddings=100,
        rope_parameters={"rope_type": kind, "rope_theta": base, **parameters},
    )
    frequencies, magnitude = ROPE_INIT_FUNCTIONS[kind](config, None, length)
    return frequencies.numpy(), magnitude


LENGTH = {"original_max_position_embeddings": 100}
SCALINGS = [
    (3.0, "linear", {"factor": 3.0}),
    # A length of 3.5 times the longest
    (positions.NtkScaling(3.5), "dynamic", {"factor": 1.0, "seq_len": 350}),
    (positions.YarnScaling(4.0, 100), "yarn", {"factor": 4.0, **LENGTH}),
    (
        positions.YarnScaling(8.0, 100, 9.0, 0.5, 1.3, truncate=False),
        "yarn",
        {
            "factor": 8.0,
            "beta_fast": 9.0,
            "beta_slow": 0.5,
            "attention_factor": 1.3,
            "truncate": False,
            **LENGTH,
        },
    ),
    (
        positions.Llama3Scaling(8.0, 100, 0.9, 3.7),
        "llama3",
        {"factor": 8.0, "low_freq_factor": 0.9, "high_freq_factor": 3.7, **LENGTH},
    ),
]


@pytest.mark.parametrize(("scaling", "kind", "parameters"), SCALINGS, ids=str)
@pytest.mark.parametrize(("dim", "base"), [(64, 10_000.0), (22, 500.0)])
def test_scalings_equal_those_of_transformers(scaling, kind, parameters, dim, base):
    expected, magnitude = _in_transformers(kind, dim, base, **parameters)
    found = positions.rotary_frequencies(dim, base, scaling)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    assert abs(found / positions.rotary_frequencies(dim, base) - 1).max() > 0.5
    assert getattr(scaling, "magnitude", 1.0) == pytest.approx(magnitude, rel=1e-12)


def test_invalid_scalings_raise():
    with pytest.raises(ValueError, match="`factor` must be positive, got 0"):
        positions.NtkScaling(0)
    with pytest.raises(ValueError, match="`original_length` must be a positive integer, got 1.5"):
        positions.YarnScaling(2.0, 1.5)
    with pytest.raises(
        ValueError, match="`beta_fast` must be larger than `beta_slow`, got 1.0 and"
    ):
        positions.YarnScaling(2.0, 64, beta_fast=1.0, beta_slow=32.0)
    with pytest.raises(ValueError, match="`high_frequency_factor` must be larger than .* 1.0 and"):
        positions.Llama3Scaling(2.0, 100, 4.0, 1.0)


def test_each_row_may_have_its_own_positions():
    where = np.array([[0, 1, 2, 0, 1], [4, 3, 2, 1, 0]])
    rows = arrays(positions.rotate(tensors(INPUTS), positions.rotary_angles(tensors(where), H)))
    for row in range(B):
        alone = positions.rotate(
            tensors(INPUTS[row : row + 1]), positions.rotary_angles(tensors(where[row]), H)
        )
        np.testing.assert_allclose(rows[row], arrays(alone)[0], rtol=1e-5, atol=1e-6)
