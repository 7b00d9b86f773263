"""The values of requests and answers: types, shapes, nested lists, and checks."""

import contextlib
import struct
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

# The sizes of a tensor; -1 for any, None for an unknown rank.
Shape = list[int] | None
# The type and the shape of each input or output by its name.
Specs = dict[str, tuple[str, Shape]]
# The type, the shape and the flat values of each input by its name, checked.
Inputs = dict[str, tuple[str, list[int], list]]

# The number in tensorflow/core/framework/types.proto, struct's letter, the field of TensorProto
TYPES: dict[str, tuple[int, str | None, str]] = {
    "float32": (1, "f", "float_val"),
    "float64": (2, "d", "double_val"),
    "int32": (3, "i", "int_val"),
    "uint8": (4, "B", "int_val"),
    "int16": (5, "h", "int_val"),
    "int8": (6, "b", "int_val"),
    "string": (7, None, "string_val"),
    "int64": (9, "q", "int64_val"),
    "bool": (10, "?", "bool_val"),
    "bfloat16": (14, "H", "half_val"),  # the upper half of a float32
    "uint16": (17, "H", "int_val"),
    "float16": (19, "e", "half_val"),
    "uint32": (22, "I", "uint32_val"),
    "uint64": (23, "Q", "uint64_val"),
}

NUMBERS = {number: name for name, (number, _, _) in TYPES.items()}


class ServingError(RuntimeError):
    """The request cannot be sent, the server refuses it, or it does not answer in time."""


class UnavailableError(Exception):
    """The server is busy or cannot be reached; a later request may succeed."""


def checked_value(name: str, value: Any, dtype: str, wanted: Shape) -> tuple[list[int], list]:
    """The shape and the flat values of a nested list, checked against a type and a shape."""
    if dtype not in TYPES:
        raise ServingError(f"`{name}` has the type {dtype}, which cannot be sent")
    shape, flat = _flatten(name, value)
    kinds: set[type] = {"string": {str, bytes}, "bool": {bool}}.get(dtype, {int})
    if "float" in dtype:
        kinds = {int, float}
    if not kinds.issuperset(map(type, flat)):
        wrong = next(item for item in flat if type(item) not in kinds)
        raise ServingError(f"`{name}` must be of type {dtype}, got {wrong!r:.50}")
    if "float" in dtype:
        flat = list(map(float, flat))
    try:
        content(dtype, flat)
    except (OverflowError, struct.error, UnicodeEncodeError) as error:
        raise ServingError(f"`{name}` has a value that is not a valid {dtype}: {error}") from error
    if wanted is not None:
        same = len(shape) == len(wanted) and all(
            size in (-1, own) for own, size in zip(shape, wanted, strict=True)
        )
        if not flat or not same:
            sizes = ", ".join("?" if size < 0 else str(size) for size in wanted)
            least = "" if flat else " and at least one row"
            raise ServingError(f"`{name}` must have the shape [{sizes}]{least}, got {shape}")
    return shape, flat


def content(dtype: str, flat: list) -> list[bytes] | bytes:
    """A list with the bytes of each string, or the bytes of all numbers together."""
    letter = TYPES[dtype][1]
    if letter is None:
        return [value.encode() if isinstance(value, str) else value for value in flat]
    if dtype == "bfloat16":
        bits = struct.unpack(f"<{len(flat)}I", struct.pack(f"<{len(flat)}f", *flat))
        # Rounded to even before the lower half is dropped; NaN stays NaN.
        flat = [
            b >> 16 if value != value else (b + 0x7FFF + (b >> 16 & 1)) >> 16
            for b, value in zip(bits, flat, strict=True)
        ]
    return struct.pack(f"<{len(flat)}{letter}", *flat)


def _flatten(name: str, value: Any) -> tuple[list[int], list]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        return [], [value]
    parts = [_flatten(name, item) for item in value]
    shapes = [shape for shape, _ in parts]
    if any(shape != shapes[0] for shape in shapes):
        raise ServingError(f"`{name}` must have rows of equal length, got {shapes[:4]}")
    inner = shapes[0] if shapes else []
    return [len(value), *inner], [item for _, flat in parts for item in flat]


def nest(flat: list, shape: list[int]) -> Any:
    """Nested lists of a shape, from their flat values."""
    if not shape:
        return flat[0]
    size = len(flat) // shape[0] if shape[0] else 0
    return [nest(flat[row * size : (row + 1) * size], shape[1:]) for row in range(shape[0])]


def decoded(value: bytes) -> str | bytes:
    """Bytes as a string if they are UTF-8, otherwise unchanged."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Turn errors of reading an answer in an unexpected form into a ServingError."""
    try:
        yield
    except Exception as error:
        raise ServingError(f"the answer cannot be read: {error!r}") from error


def seconds_left(deadline: float) -> float:
    """The seconds until the deadline; raises a TimeoutError after it."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers, or None, as a dict; raises a ValueError if a request cannot have them."""
    if headers is not None and not hasattr(headers, "items"):
        raise ValueError(f"`headers` must be a dict or None, got {headers!r}")
    for item in (headers or {}).items():
        if not all(
            isinstance(text, str) and text.isascii() and text.isprintable() for text in item
        ):
            raise ValueError(f"`headers` must be printable ASCII text, got {item!r}")
    return dict(headers or {})


def check_address(address: str) -> str:
    """The scheme of an address; raises a ValueError if it is not an address."""
    scheme = None
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        parts = urllib.parse.urlsplit(address)
        if parts.port != 0 and parts.hostname:  # `parts.port` raises if it is not a number
            scheme = parts.scheme
    if scheme not in ("http", "https", "grpc", "grpcs"):
        raise ValueError(
            f"`address` must be SCHEME://HOST:PORT with http, https, grpc or grpcs, got {address!r}"
        )
    return scheme
