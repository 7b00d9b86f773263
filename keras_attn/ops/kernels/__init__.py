"""What each attention kernel can do, and the choice among them.

A kernel is a module with one function `attention(query, key, value, *, mask, bias, scale, dropout,
seed, return_weights)`; its shapes are those of `keras_attn.ops.attention`. The modules that name a
backend are imported on use.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import keras

from keras_attn.ops.masks import AttentionMask


@dataclasses.dataclass(frozen=True)
class Request:
    """What one call asks of a kernel; lengths that are not known statically are None."""

    backend: str
    dtype: str
    query_length: int | None
    key_length: int | None
    mask: AttentionMask
    bias: Any
    dropout: float
    weights: bool
    block_size: int | None

    @classmethod
    def of(cls, query: Any, key: Any, value: Any, **asked: Any) -> "Request":
        """The request that these tensors and options make."""
        return cls(
            backend=keras.backend.backend(),
            dtype=keras.backend.standardize_dtype(query.dtype),
            query_length=query.shape[1],
            key_length=key.shape[1],
            **asked,
        )


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel's declaration: where it runs, why it refuses a request, when it is the best."""

    name: str
    module: str
    backends: tuple[str, ...]
    refusal: Callable[[Request], str | None]
    preferred: Callable[[Request], bool]

    def why_not(self, request: Request) -> str | None:
        """The reason why this kernel cannot serve the request, or None."""
        if request.backend not in self.backends:
            return f"it runs on {', '.join(self.backends)}, not on {request.backend}"
        return self.refusal(request)

    def load(self) -> Callable[..., Any]:
        """The kernel's function; imports its module."""
        return importlib.import_module(f"keras_attn.ops.kernels.{self.module}").attention


# In order of preference; the reference kernel does everything and comes last.
KERNELS = (
    Kernel(
        name="chunked",
        module="chunked_tf",
        backends=("tensorflow",),
        refusal=lambda request: "it never has the weights" if request.weights else None,
        preferred=lambda request: False,
    ),
    Kernel(
        name="reference",
        module="reference",
        backends=("tensorflow", "jax", "torch"),
        refusal=lambda request: "it has no blocks" if request.block_size else None,
        preferred=lambda request: True,
    ),
)


def check_name(name: str) -> None:
    """Raise unless `name` is "auto" or a kernel's name."""
    known = ["auto", *dict.fromkeys(kernel.name for kernel in KERNELS)]
    if name not in known:
        raise ValueError(f"`kernel` must be one of {', '.join(known)}, got {name!r}")


def choose(name: str, request: Request) -> Callable[..., Any]:
    """The function of the kernel `name`, or of the best one for "auto"."""
    check_name(name)
    if name == "auto":
        return next(
            kernel
            for kernel in KERNELS
            if kernel.why_not(request) is None and kernel.preferred(request)
        ).load()
    reasons = []
    for kernel in KERNELS:
        if kernel.name == name:
            reason = kernel.why_not(request)
            if reason is None:
                return kernel.load()
            reasons.append(reason)
    raise ValueError(f"`kernel` {name!r} cannot run here: {'; '.join(reasons)}")
