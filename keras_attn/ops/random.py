"""Random draws from a seed tensor: the same seed gives the same draw, and no state is kept."""

from typing import Any

import keras


class _Fixed(keras.random.SeedGenerator):
    """A seed generator that always gives one seed: keras.random accepts no plain tensor."""

    def __init__(self, seed: Any) -> None:
        self._seed = seed
        self._initial_seed = 0  # torch's dropout asks whether there is one

    def next(self, ordered: bool = True) -> Any:
        return self._seed


def check_rate(name: str, rate: float) -> None:
    """Raise unless the rate of a dropout is in [0, 1)."""
    if not 0 <= rate < 1:
        raise ValueError(f"`{name}` must be in [0, 1), got {rate!r}")


def uniform(shape: tuple, seed: Any, dtype: str = "float32") -> Any:
    """Uniform numbers in [0, 1).

    Args:
        shape: of the result; entries may be tensors in a graph.
        seed: integer tensor `[2]`, as `SeedGenerator.next()` gives it.
        dtype: of the result.
    """
    return keras.random.uniform(shape, dtype=dtype, seed=_Fixed(seed))


def dropout(inputs: Any, rate: float, seed: Any) -> Any:
    """Zero a share `rate` of the elements and scale the rest by `1 / (1 - rate)`."""
    return keras.random.dropout(inputs, rate, seed=_Fixed(seed))
