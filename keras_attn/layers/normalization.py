"""The norms that a block can be given by name."""

from typing import Any

import keras

NORMS = {"layer": keras.layers.LayerNormalization, "rms": keras.layers.RMSNormalization}


def check_norm(name: str) -> None:
    """Raise unless the norm is known."""
    if name not in NORMS:
        raise ValueError(f"`norm` must be one of {', '.join(NORMS)}, got {name!r}")


def make_norm(kind: str, epsilon: float, **kwargs: Any) -> keras.layers.Layer:
    """The layer of the norm `kind`."""
    norm = NORMS[kind](epsilon=epsilon, **kwargs)
    norm.supports_masking = True  # Keras' RMSNormalization would drop the mask, with a warning
    return norm
