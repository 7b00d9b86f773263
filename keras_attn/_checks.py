"""Checks of arguments, one wording for each kind: the name, what is expected, what came."""

import importlib
import numbers
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attn._typing import Shape, Size, Tensor


def renamed(kwargs: dict, old: str, new: str, value: Any) -> Any:
    """The argument `new` of a constructor, which `kwargs` may hold under its old name."""
    if old not in kwargs:
        return value
    warnings.warn(f"`{old}` is deprecated: use `{new}`", DeprecationWarning, stacklevel=3)
    return kwargs.pop(old)


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise unless `value` is one of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}")


def is_integer(value: object) -> bool:
    """Whether it is an integer, Python's or numpy's, and no truth value."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_count(name: str, value: Any) -> int:
    """The value as Python's int; raises unless it is a positive integer."""
    if not is_integer(value) or value <= 0:
        # Keras' own tests of its attention layers, which ours pass, look for the word "argument".
        raise ValueError(f"argument `{name}` must be a positive integer, got {value!r}")
    return int(value)


def optional_count(name: str, value: Any) -> int | None:
    """None, or what `check_count` gives."""
    return None if value is None else check_count(name, value)


def check_id(name: str, value: Any, count: int) -> int:
    """The value as Python's int; raises unless it is an id in [0, count)."""
    if not is_integer(value) or not 0 <= value < count:
        raise ValueError(f"`{name}` must be an integer in [0, {count}), got {value!r}")
    return int(value)


def check_positive(name: str, value: object) -> None:
    """Raise unless `value` is a number above zero."""
    if not isinstance(value, numbers.Real) or not float(value) > 0:
        raise ValueError(f"`{name}` must be positive, got {value!r}")


def check_number(name: str, value: object) -> None:
    """Raise unless `value` is a number, of Python or as a tensor."""
    if not isinstance(value, numbers.Real) and not hasattr(value, "dtype"):
        raise ValueError(f"`{name}` must be a number, got {value!r}")


def check_flag(name: str, value: Any) -> bool:
    """The value as Python's bool; raises unless it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False, got {value!r}")
    return bool(value)


def to_path(name: str, value: str | os.PathLike) -> pathlib.Path:
    """The absolute path; raises unless `value` is a path."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(f"`{name}` must be a path, got {value!r}")
    return pathlib.Path(value).absolute()


def check_rate(name: str, value: float) -> None:
    """Raise unless `value` is in [0, 1), as the rate of a dropout is."""
    if not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be in [0, 1), got {value!r}")


def optional_module(name: str, extra: str, purpose: str) -> ModuleType:
    """The module of a package that only an extra installs; without it an error that says how."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0].replace("_", "-")
        raise ImportError(
            f"{purpose} needs the package {package}: pip install keras_attn[{extra}]"
        ) from error


def check_shape(name: str, shape: Shape, *, broadcast: bool = False, **axes: Size | None) -> None:
    """Raise unless a shape has these axes.

    Args:
        name: name of the argument.
        shape: shape of the tensor; entries may be None.
        broadcast: whether an axis may have length 1 instead.
        **axes: the name of each axis and the size that it must have; None for any size.
    """
    fits = len(shape) == len(axes) and all(
        have is None or want is None or have == want or (broadcast and have == 1)
        for have, want in zip(shape, axes.values(), strict=True)
    )
    if not fits:
        wanted = f"[{', '.join(axis.replace('_', ' ') for axis in axes)}]"
        if any(size is not None for size in axes.values()):
            wanted = f"{wanted} = {tuple(axes.values())}"
        verb = "be broadcastable to" if broadcast else "have"
        raise ValueError(f"`{name}` must {verb} shape {wanted}, got shape {tuple(shape)}")


def check_not_empty(name: str, shape: Shape) -> None:
    """Raise if a tensor `[B, T, ...]` is known to have no position."""
    if shape[1] == 0:
        raise ValueError(f"`{name}` must have at least one position, got shape {tuple(shape)}")


def to_boolean(name: str, mask: Tensor) -> Tensor:
    """A mask, given as a tensor or as nested lists, as a tensor of bool.

    An additive mask, whose meaning is the opposite, raises where its numbers are known: one with
    numbers below zero, if none is above zero, or some are -1000 or less. Others count as True
    unless they are zero.
    """
    if not hasattr(mask, "dtype"):
        mask = np.asarray(mask)
    dtype = str(mask.dtype).lower()
    if not re.search("bool|int|float", dtype):
        raise ValueError(f"`{name}` must hold truth values, got {mask!r}")
    if "bool" not in dtype:
        half = "bfloat16" in dtype  # which numpy lacks
        values = known_values(ops.cast(mask, "float32") if half else mask)
        low, high = (values.min(), values.max()) if values is not None and values.size else (0, 0)
        if low < 0 and (high <= 0 or low <= -1000):
            raise ValueError(
                f"`{name}` must be true where nothing is hidden, got {low:g}, as in an additive "
                "mask: give `mask >= 0`; `ops.attention` takes numbers to add as `bias`"
            )
    return ops.cast(mask, "bool")


def to_mask(name: str, mask: Tensor | None, **axes: Size | None) -> Tensor | None:
    """What `to_boolean` gives, of the shape `axes`, or None.

    Args:
        name: name of the argument.
        mask: the mask, or None.
        **axes: as in `check_shape`; an axis may have length 1 instead.
    """
    if mask is None:
        return None
    mask = to_boolean(name, mask)
    check_shape(name, mask.shape, broadcast=True, **axes)
    return mask


def to_ids(name: str, ids: Tensor | None, **axes: Size | None) -> Tensor | None:
    """Ids, given as a tensor or as nested lists, as a tensor of the shape `axes`, or None.

    Arguments as in `to_mask`.
    """
    if ids is None:
        return None
    if not hasattr(ids, "shape"):
        ids = ops.convert_to_tensor(ids)
    check_shape(name, ids.shape, broadcast=True, **axes)
    return ids


def to_integers(name: str, values: Tensor, **axes: Any) -> Tensor:
    """Integers, given as a tensor or as nested lists: an int32 tensor of the shape `axes`.

    Args:
        name: name of the argument.
        values: the integers.
        **axes: as in `check_shape`; without any every shape fits.
    """
    if not hasattr(values, "dtype"):
        values = np.asarray(values)
    if "int" not in str(values.dtype):
        raise ValueError(f"`{name}` must hold integers, got {values.dtype}")
    if axes:
        check_shape(name, values.shape, **axes)
    return ops.cast(values, "int32")


def check_ids(name: str, ids: Tensor, count: int) -> Tensor:
    """Int32 ids in [0, count): a ValueError names eager ids outside; compiled code clips them.

    Compiled code cannot raise, and an index outside a table is an error on one device, NaN or zero
    on another; the nearest valid id is the same everywhere.

    >>> check_ids("token_ids", np.array([3, 11]), 11)
    Traceback (most recent call last):
    ValueError: `token_ids` must be in [0, 11), got 11
    """
    values = known_values(ids)
    if values is not None and values.size:
        for value in (values.min(), values.max()):
            if not 0 <= value < count:
                raise ValueError(f"`{name}` must be in [0, {count}), got {value}")
    if keras.backend.standardize_dtype(getattr(ids, "dtype", "int32")) == "int64":
        # A cast alone would cut off what int32 lacks.
        ids = ops.clip(ids, 0, count - 1)
    return ops.clip(ops.cast(ids, "int32"), 0, count - 1)


def check_numbers(
    name: str,
    values: Tensor,
    rule: str,
    allowed: Callable[[np.ndarray], np.ndarray],
    batch: Size | None,
) -> None:
    """Raise unless it is a number, or one for each row, and each one that is known is allowed.

    Args:
        name: name of the argument.
        values: a number, or a tensor or a list of them.
        rule: what they must be, for the message.
        allowed: function of an array of float64 that gives where they are that.
        batch: number of rows, None where it is unknown.
    """
    array = values if hasattr(values, "dtype") else np.asarray(values)
    if not re.search("int|float", str(array.dtype)):
        raise ValueError(f"`{name}` must be {rule}, got {values!r}")
    known = known_values(array)
    if known is not None:
        known = known.astype("float64").reshape(-1)
        for number in known[~allowed(known)]:
            raise ValueError(f"`{name}` must be {rule}, got {number:g}")
    if len(array.shape):
        check_shape(name, array.shape, batch=batch)


def known_values(values: Tensor) -> np.ndarray | None:
    """Values as numpy where they are known; None inside compiled code, which can raise nothing."""
    try:
        return np.asarray(values)
    except Exception:  # each backend refuses in a way of its own
        return None
