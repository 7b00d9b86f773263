"""Every layer computes on every backend what it computes on TensorFlow.

There, and mostly on torch, the tests of a layer compare it with its paper or another library; JAX
runs many of them with `-m slow` only. After a change of numbers that is meant, write the file with
`KERAS_BACKEND=tensorflow python -m tests.contract.test_values`.
"""

from pathlib import Path

import numpy as np
import pytest
from keras import tree

from tests.backend import arrays
from tests.cases import CALLED

FILE = Path(__file__).parent / "values.npz"


def outputs_of(case):
    """The outputs with weights that do not depend on a backend's initializers."""
    layer = case.build(case.make())
    draw = np.random.default_rng(1)
    for weight in sorted(layer.trainable_weights, key=lambda weight: weight.path):
        weight.assign(draw.normal(size=weight.shape) / 3 + ("gamma" in weight.name))
    outputs = arrays(layer(**case.values()))
    return (
        [outputs[key] for key in sorted(outputs)]
        if isinstance(outputs, dict)
        else tree.flatten(outputs)
    )


@pytest.mark.parametrize("case", CALLED, ids=str)
def test_outputs_equal_those_on_tensorflow(case):
    outputs = outputs_of(case)
    with np.load(FILE) as stored:
        expected = [stored[f"{case}/{index}"] for index in range(len(outputs))]
        assert f"{case}/{len(outputs)}" not in stored
    for have, want in zip(outputs, expected, strict=True):
        assert have.dtype == want.dtype
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=2e-6)


if __name__ == "__main__":
    found = {str(case): outputs_of(case) for case in CALLED}
    names = {f"{case}/{i}": array for case, all_ in found.items() for i, array in enumerate(all_)}
    np.savez_compressed(FILE, **names)
