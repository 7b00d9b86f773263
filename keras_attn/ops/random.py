"""Random draws from a seed tensor, which keep no state; and the state of the global generators."""

import keras
import numpy as np
from keras import ops

from keras_attn import backend
from keras_attn._keras import GLOBAL_SEED_GENERATOR, FixedSeed, global_seed_generator, global_state
from keras_attn._typing import Tensor


class SeedGenerator(keras.random.SeedGenerator):
    """Keras' own, with its state on a device where a draw can read it without waiting."""

    def __init__(self, seed: int | None = None) -> None:
        with backend.seeds_place():
            super().__init__(seed)

    def next(self, ordered: bool = True) -> Tensor:
        """The next seed `[2]`."""
        with backend.seeds_place():
            return super().next(ordered)


def is_seed(seed: object) -> bool:
    """Whether it is an integer tensor `[2]`."""
    shape, dtype = getattr(seed, "shape", ()), getattr(seed, "dtype", None)
    return len(shape) == 1 and shape[0] in (2, None) and "int" in str(dtype)


def uniform(shape: tuple, seed: Tensor, dtype: str = "float32") -> Tensor:
    """Uniform numbers in [0, 1).

    Args:
        shape: shape of the result; entries may be tensors in a graph.
        seed: integer tensor `[2]`, as `SeedGenerator.next()` gives it.
        dtype: dtype of the result.
    """
    return keras.random.uniform(shape, dtype=dtype, seed=FixedSeed(seed))


def dropout(inputs: Tensor, rate: float, seed: Tensor) -> Tensor:
    """Zero each element with probability `rate`, and scale the rest to keep the mean."""
    keep, factor = kept(ops.shape(inputs), rate, seed)
    # Not a choice, which takes torch four times as long.
    return inputs * (ops.cast(keep, inputs.dtype) * factor)


def kept(shape: tuple, rate: float, seed: Tensor) -> tuple[Tensor, float]:
    """Which elements dropout keeps, bool, and by what it multiplies these.

    A draw has 16 bits, which cost less than a float; the rate is rounded to a multiple of 2^-16.
    """
    dropped = min(round(rate * 2**16), 2**16 - 1)
    draws = backend.random_int16(shape, seed)  # from -2^15 on
    return backend.drawn_once(draws >= dropped - 2**15), 2**16 / (2**16 - dropped)


def global_states() -> dict[str, np.ndarray]:
    """The state of the generators that belong to no layer: Keras' own and the backend's.

    keras.random draws from them where no seed is given, and on torch Dropout without a seed.
    """
    states = backend.generator_states()
    if global_state.get_global_attribute(GLOBAL_SEED_GENERATOR) is not None:
        states["keras"] = keras.ops.convert_to_numpy(global_seed_generator().state)
    return states


def assign_global_states(states: dict[str, np.ndarray]) -> None:
    """Set the generators to what `global_states` gave."""
    if "keras" in states:
        global_seed_generator().state.assign(states["keras"])
    backend.assign_generator_states(states)
