"""`keras_attn.backend` on torch."""

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from keras_attn._typing import Nested, Size, Tensor
from keras_attn.backend import Part


def compiled(
    function: Callable[..., Nested], variables: Sequence[keras.Variable], xla: bool
) -> Callable[..., Nested]:
    """Torch runs loops in Python, without gradients."""
    return torch.no_grad()(function)


def loop(count: Size, step: Callable, carry: tuple, dtypes: tuple) -> tuple:
    """Run `carry, outputs = step(index, carry)` and stack the outputs of all steps."""
    steps = []
    for index in range(count):
        carry, outputs = step(index, carry)
        steps.append(outputs)
    return carry, tuple(torch.stack(parts) for parts in zip(*steps, strict=True))


def recomputed(function: Callable[..., Nested], *tensors: Tensor) -> Nested:
    """`function(*tensors)`, computed again in the backward pass."""
    return checkpoint(function, *tensors, use_reentrant=False)


def with_gradient(forward: Callable, backward: Callable) -> Callable[..., Tensor]:
    """Autograd records `backward` where second derivatives are asked for."""
    return functools.partial(_WithGradient.apply, forward, backward)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, forward: Callable, backward: Callable, *tensors: Tensor) -> Tensor:
        context.gradient = backward
        context.save_for_backward(*tensors)
        return forward(*tensors)

    @staticmethod
    # pyrefly: ignore[bad-override]
    def backward(context: Any, d_output: Tensor) -> tuple:
        return None, None, *context.gradient(d_output, *context.saved_tensors)


def traced_once(function: Callable, identity: Hashable, tensors: Nested) -> Nested:
    """There is no graph."""
    return function(tensors)


def activated(activation: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Keras' own."""
    return activation(inputs)


def random_int16(shape: tuple, seed: Tensor) -> Tensor:
    """Four from each draw: one after the other, they take more time than the rest of dropout."""
    *others, last = shape
    draws = keras.ops.empty((*others, -(-last // 4)), dtype="int64")
    if not draws.is_meta:  # Keras only asks for the shape there
        generator = torch.Generator(draws.device)
        generator.manual_seed(_number(seed))
        draws.random_(torch.iinfo(torch.int64).min, None, generator=generator)
    return draws.view(torch.int16)[..., :last]


@contextlib.contextmanager
def seeded(seed: Tensor, device: torch.device) -> Iterator[None]:
    """The device's own generator starts from the seed, and afterwards is what it was.

    For what takes no generator.
    """
    if device.type == "meta":  # Keras only asks for the shape there
        yield
        return
    own = torch.default_generator
    if device.type == "cuda":
        own = torch.cuda.default_generators[device.index]
    state = own.get_state()
    own.manual_seed(_number(seed))
    try:
        yield
    finally:
        own.set_state(state)


def drawn_once(tensor: Tensor) -> Tensor:
    """Autograd keeps it."""
    return tensor


def device_of(tensor: Tensor) -> str:
    """That of the tensor."""
    return "gpu" if tensor.device.type == "cuda" else tensor.device.type


def seeds_place() -> contextlib.AbstractContextManager:
    """A draw takes its seed as a number; to read it from a GPU waits for all work queued there."""
    if keras.ops.empty(()).is_meta:  # Keras only asks for the shape
        return contextlib.nullcontext()
    return keras.device("cpu")


def _number(seed: Tensor) -> int:
    return int(torch.as_tensor(seed).to(torch.int64).sum()) % 2**32  # as keras.random does


def generator_states() -> dict[str, np.ndarray]:
    """The state of each device's generator, from which Keras' Dropout without a seed draws."""
    found = {"torch_cpu": torch.get_rng_state().numpy()}
    if torch.cuda.is_available():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            found[f"torch_cuda_{index}"] = state.numpy()
    return found


def assign_generator_states(states: dict[str, np.ndarray]) -> None:
    """Set the generators; a state of a device that is not here has no effect.

    Without a state, as in a file of another backend, a generator stays as it is.
    """
    if "torch_cpu" in states:
        torch.set_rng_state(torch.from_numpy(states["torch_cpu"]))
    for index in range(torch.cuda.device_count()):
        if f"torch_cuda_{index}" in states:
            torch.cuda.set_rng_state(torch.from_numpy(states[f"torch_cuda_{index}"]), index)


def owned_parts(variable: keras.Variable) -> dict[Part, np.ndarray]:
    """Keras trains in one process."""
    return {None: keras.ops.convert_to_numpy(variable)}


def needed_parts(variable: keras.Variable) -> list:
    """The whole."""
    return [None]


def assign_parts(variable: keras.Variable, parts: dict) -> None:
    """The whole."""
    variable.assign(parts[None])


def file_number(model: keras.Model, variables: Sequence[keras.Variable]) -> tuple[int, int]:
    """Keras trains in one process."""
    return 0, 1


def from_all_processes(model: keras.Model, number: int) -> list[int]:
    """Keras trains in one process."""
    return [number]
