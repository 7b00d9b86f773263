"""How a position vector joins the vector at its position: added or concatenated."""

from typing import Any

from keras import ops

COMBINATIONS = ("add", "concatenate")


def check_combination(combination: str, dim: int | None) -> None:
    """Raise unless the combination is known and `dim` goes with it."""
    if combination not in COMBINATIONS:
        raise ValueError(
            f"`combination` must be one of {', '.join(COMBINATIONS)}, got {combination!r}"
        )
    if combination == "add" and dim is not None:
        raise ValueError(f"`dim` must be None where positions are added, got {dim!r}")


def combine(combination: str, inputs: Any, encoding: Any) -> Any:
    """Inputs `[B, T, D]` joined with the encoding `[T, E]` or `[B, T, E]`."""
    encoding = ops.cast(encoding, inputs.dtype)
    if combination == "add":
        return inputs + encoding
    batch, length, _ = ops.shape(inputs)
    encoding = ops.broadcast_to(encoding, (batch, length, encoding.shape[-1]))
    return ops.concatenate([inputs, encoding], axis=-1)


def combined_width(combination: str, input_shape: Any, dim: int | None) -> tuple:
    """The shape that `combine` gives."""
    width = input_shape[-1]
    return (*input_shape[:-1], width if combination == "add" else width + (dim or width))
