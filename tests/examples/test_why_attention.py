"""The claims of examples/why_attention.py against the theory."""

import importlib
import pathlib
import re

import numpy as np
import pytest

plt = pytest.importorskip("matplotlib.pyplot")

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.backends("tensorflow", reason="gradients are a TensorFlow tape's")


@pytest.fixture
def why(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module("why_attention")
    plt.close("all")


def axes(count):
    return plt.subplots(1, count, squeeze=False)[1][0]


def test_only_without_positions_permuted_inputs_permute_the_output(why, capsys):
    why.order(*axes(1))
    moved = dict(re.findall(r"positions (.+?) +(\S+) +theory", capsys.readouterr().out))
    assert float(moved.pop("none")) < 1e-5
    assert len(moved) == 5 and all(float(distance) > 1e-3 for distance in moved.values())


def test_shifted_sinusoids_are_a_linear_map_of_sinusoids(why, capsys):
    why.sinusoids(*axes(2))
    errors = re.findall(r"(\S+) with the rotations of theory, (\S+) with", capsys.readouterr().out)
    assert np.array(errors, "float64").max() < 1e-3 and len(errors) == 3


def test_scaling_keeps_entropy_and_gradients_at_large_widths(why, capsys):
    why.scaling(*axes(2))
    number = r"([\d.]+)"
    row = rf"d = +(\d+): entropy {number}, scaled {number}; gradient {number}, scaled {number}"
    found = np.array(re.findall(row, capsys.readouterr().out), "float64")
    _, entropy, scaled_entropy, gradient, scaled_gradient = found[-1]  # d = 1024
    assert entropy < 0.5 and abs(scaled_entropy - (np.log(64) - 0.5)) < 0.1
    assert gradient < scaled_gradient / 2
