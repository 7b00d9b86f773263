"""What each attention kernel can do, and the choice among them.

A kernel is a module with one function `attention(query, key, value, *, mask, bias, scale,
logits_soft_cap, sink, dropout, seed, return_scores, block_size)`; its shapes are those of
`keras_attn.ops.attention`. The modules that name a backend are imported on use.
"""

import dataclasses
import functools
import importlib
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import keras

from keras_attn._keras import converting
from keras_attn._typing import Nested, Tensor
from keras_attn.backend import device_of
from keras_attn.ops.biases import Bias
from keras_attn.ops.kernels import schedule
from keras_attn.ops.masks import AttentionMask

logger = logging.getLogger("keras_attn")


@dataclasses.dataclass(frozen=True)
class Request:
    """What one call asks of a kernel.

    `device` is the kind of device that the computation is for, and `query`, `key` and `value` are
    shapes, with None for a length that is not known statically.
    """

    backend: str
    device: str
    dtype: str
    query: tuple
    key: tuple
    value: tuple
    mask: AttentionMask
    bias: Bias | None
    logits_soft_cap: float | None
    sink: Tensor | None
    dropout: float
    weights: bool
    block_size: int | None

    @classmethod
    def of(cls, query: Tensor, key: Tensor, value: Tensor, **asked: Any) -> "Request":
        """The request that these tensors and options make."""
        return cls(
            backend=keras.backend.backend(),
            device=device_of(query),
            dtype=keras.backend.standardize_dtype(query.dtype),
            query=tuple(query.shape),
            key=tuple(key.shape),
            value=tuple(value.shape),
            **asked,
        )

    @property
    def empty(self) -> bool:
        """Whether there is not one logit: no batch, no query or no key."""
        lengths = (*self.query[:2], self.key[1])
        return 0 in [length for length in lengths if isinstance(length, int)]  # no symbols of JAX


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel's declaration: where it runs, what it cannot do, and when it is the best.

    The module has `attention`, and `refusal(request)` if there is something it cannot do.
    """

    name: str
    module: str
    backend: str | None = None
    has_weights: bool = False
    has_blocks: bool = False
    has_soft_cap: bool = False
    has_sink: bool = False
    preferred: Callable[[Request], bool] = lambda request: True

    def runs_on(self, backend: str) -> bool:
        """Whether it can run on that backend at all."""
        return self.backend in (None, backend)

    def refusal(self, request: Request) -> str | None:
        """The reason why this kernel cannot serve the request, or None."""
        if not self.runs_on(request.backend):
            return f"it runs on {self.backend}, not on {request.backend}"
        if request.weights and not self.has_weights:
            return "it does not return the attention weights"
        if request.block_size is not None and not self.has_blocks:
            return "it takes no `block_size`"
        if request.logits_soft_cap is not None and not self.has_soft_cap:
            return "it takes no `logits_soft_cap`"
        if request.sink is not None and not self.has_sink:
            return "it takes no `sink`"
        refusal = getattr(_load(self.module), "refusal", lambda request: None)
        return refusal(request)

    def load(self) -> Callable[..., Nested]:
        """The kernel's function; imports its module."""
        return _load(self.module).attention


def _long(least: int, request: Request) -> bool:
    """Whether one head has at least so many logits that holding all of them costs more time.

    Blocks that are asked for count as long, and so does a length that is not known: the kernel then
    looks at run time. The logits of one query are one row, of which there is nothing to cut.
    """
    lengths = request.query[1], request.key[1]
    if request.block_size:
        return True
    if isinstance(lengths[0], int) and lengths[0] == 1:
        return False
    if None in lengths:
        return True
    if not all(isinstance(length, int) for length in lengths):
        return False  # JAX's symbols, with which Keras only asks for the shape of the output
    return lengths[0] * lengths[1] >= least


def _if_long(where: str) -> Callable[[Request], bool]:
    return functools.partial(_long, schedule.LONG[where])


# In order of preference; the reference kernel does everything and comes last.
_OPTIONS = {"has_soft_cap": True, "has_sink": True}
_CHUNKED = {"has_blocks": True, **_OPTIONS}
KERNELS = (
    Kernel("fused", "cudnn_jax", "jax"),
    Kernel("fused", "splash_jax", "jax", preferred=_if_long("tpu"), **_OPTIONS),
    Kernel("fused", "fused_torch", "torch"),
    Kernel("chunked", "chunked_tf", "tensorflow", preferred=_if_long("tensorflow"), **_CHUNKED),
    Kernel("chunked", "chunked_jax", "jax", preferred=_if_long("jax"), **_CHUNKED),
    Kernel("chunked", "chunked_torch", "torch", preferred=_if_long("torch"), **_CHUNKED),
    Kernel("reference", "reference", has_weights=True, **_OPTIONS),
)


@functools.cache  # a plain import would be translated by TensorFlow's autograph, with warnings
def _load(module: str) -> ModuleType:
    return importlib.import_module(f"keras_attn.ops.kernels.{module}")


def check_name(name: str) -> None:
    """Raise unless `name` is "auto" or a kernel's name."""
    known = ["auto", *dict.fromkeys(kernel.name for kernel in KERNELS)]
    if name not in known:
        raise ValueError(f"`kernel` must be one of {', '.join(known)}, got {name!r}")


class Choice(NamedTuple):
    """The kernel of one call, and for each of the others the reason against it."""

    kernel: str
    others: dict[str, str]

    def __str__(self) -> str:
        return "\n".join(
            [self.kernel, *(f"not {n}: {reason}" for n, reason in self.others.items())]
        )


def choose(name: str, request: Request) -> Callable[..., Nested]:
    """The function of the kernel `name`, or of the best one for "auto", which is then logged."""
    kernel = _chosen(name, request)
    if name == "auto" and logger.isEnabledFor(logging.DEBUG):
        logger.debug("attention takes the kernel %s", explain(name, request))
    return kernel.load()


def explain(name: str, request: Request) -> Choice:
    """The kernel that `choose` takes, and why none of the others."""
    chosen, others = _chosen(name, request), {}
    for other in dict.fromkeys(kernel.name for kernel in KERNELS):
        if other != chosen.name:
            others[other] = _refusal(other, request) or _disadvantage(name, request)
    return Choice(chosen.name, others)


def _disadvantage(name: str, request: Request) -> str:
    """Why a kernel that could serve the request is not taken."""
    if request.empty:
        return "there are no logits to compute"
    if converting():
        return "a graph for a converter has the reference kernel"
    return "possible, but slower for these shapes" if name == "auto" else "not asked for"


def _refusal(name: str, request: Request) -> str | None:
    """Why no kernel of this name can serve the request, or None.

    Several may have the name; those of this backend count, if there is one.
    """
    named = [kernel for kernel in KERNELS if kernel.name == name]
    here = [kernel for kernel in named if kernel.runs_on(request.backend)]
    reasons = [kernel.refusal(request) for kernel in here or named[:1]]
    return None if None in reasons else "; ".join(map(str, reasons))


def _chosen(name: str, request: Request) -> Kernel:
    check_name(name)
    reference = KERNELS[-1]
    if request.empty:
        return reference
    able = (kernel for kernel in KERNELS if kernel.refusal(request) is None)
    if name == "auto":
        chosen = next(kernel for kernel in able if kernel.preferred(request))
    else:
        reason = _refusal(name, request)
        if reason is not None:
            raise ValueError(f"`kernel` {name!r} cannot run here: {reason}")
        chosen = next(kernel for kernel in able if kernel.name == name)
    # LiteRT lacks the loop and branches of a kernel with blocks; OpenVINO computes them wrong.
    return reference if chosen.has_blocks and converting() else chosen
