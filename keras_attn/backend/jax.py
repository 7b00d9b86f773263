"""`keras_attn.backend` on JAX."""

import contextlib
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.experimental import multihost_utils

from keras_attn._typing import Nested, Size, Tensor
from keras_attn.backend import Part


def compiled(
    function: Callable[..., Nested], variables: Sequence[keras.Variable], xla: bool
) -> Callable[..., Nested]:
    """Weights go in as arguments, or they would be constants."""

    @jax.jit
    def run(values: list, *args: Nested, **kwargs: Nested) -> Nested:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*args, **kwargs)

    @functools.wraps(function)
    def call(*args: Nested, **kwargs: Nested) -> Nested:
        return run([variable.value for variable in variables], *args, **kwargs)

    return call


def loop(count: Size, step: Callable, carry: tuple, dtypes: tuple) -> tuple:
    """Run `carry, outputs = step(index, carry)` and stack the outputs of all steps."""
    return jax.lax.scan(lambda carry, index: step(index, carry), carry, jnp.arange(count))


def recomputed(function: Callable[..., Nested], *tensors: Tensor) -> Nested:
    """Not `jax.checkpoint`: XLA for CPUs takes its computations for one and keeps the results."""
    run = jax.custom_vjp(function)

    def forward(*tensors: Tensor) -> tuple:
        return function(*tensors), tensors

    def backward(tensors: tuple, d_outputs: Nested) -> tuple:
        _, gradient = jax.vjp(function, *_after(d_outputs, tensors))
        return gradient(d_outputs)

    run.defvjp(forward, backward)
    return run(*tensors)


def with_gradient(forward: Callable, backward: Callable) -> Callable[..., Tensor]:
    """The forward pass calls `run`, so that the derivatives of its output are `backward`'s too."""
    run = jax.custom_vjp(forward)
    run.defvjp(
        lambda *tensors: (run(*tensors), tensors),
        lambda tensors, d_output: backward(d_output, *tensors),
    )
    return run


def traced_once(function: Callable, identity: Hashable, tensors: Nested) -> Nested:
    """XLA compiles the whole."""
    return function(tensors)


def activated(activation: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """GELU of 16 bits by erf in float32: faster than Keras' by erfc, which rounds in between."""
    if activation is not keras.activations.gelu or inputs.dtype not in ("bfloat16", "float16"):
        return activation(inputs)
    wide = inputs.astype("float32")
    return (0.5 * wide * (1 + jax.lax.erf(0.5**0.5 * wide))).astype(inputs.dtype)


def random_int16(shape: tuple, seed: Tensor) -> Tensor:
    """Two from each draw, whose price is the same for fewer bits."""
    *others, last = shape
    draws = jax.random.bits(jnp.asarray(seed, "uint32"), (*others, (last + 1) // 2), "uint32")
    if all(isinstance(size, int) for size in shape):
        return draws.view("int16")[..., :last]
    # The same numbers: StableHLO cannot refine a view whose shape has symbols.
    halves = jnp.stack([draws & 0xFFFF, draws >> 16], axis=-1).astype("uint16").view("int16")
    return halves.reshape(*others, -1)[..., :last]


def drawn_once(tensor: Tensor) -> Tensor:
    """XLA fuses nothing across the barrier; it would draw again wherever the tensor is used."""
    return jax.lax.optimization_barrier(tensor)


def device_of(tensor: Tensor) -> str:
    """Where an array is that may not leave its device; else the mesh, or the default device."""
    known = isinstance(tensor, jax.Array) and not isinstance(tensor, jax.core.Tracer)
    if known and tensor.committed:
        return next(iter(tensor.devices())).platform
    distribution = keras.distribution.distribution()
    if distribution is not None:
        return str(distribution.device_mesh.devices.flat[0]).split(":")[0]
    config: Any = jax.config
    default = config.jax_default_device  # a device or the name of a platform
    if default is None:
        return jax.default_backend()
    return default if isinstance(default, str) else default.platform


def seeds_place() -> contextlib.AbstractContextManager:
    """Seeds stay in the program."""
    return contextlib.nullcontext()


def generator_states() -> dict[str, np.ndarray]:
    """JAX has none."""
    return {}


def assign_generator_states(states: dict[str, np.ndarray]) -> None:
    """JAX has none."""


def owned_parts(variable: keras.Variable) -> dict[Part, np.ndarray]:
    """The first copy of each shard; the first process has what all processes have."""
    value = variable.value
    everywhere = value.is_fully_addressable or value.is_fully_replicated
    if everywhere and jax.process_index():
        return {}
    if value.is_fully_replicated:
        return {None: keras.ops.convert_to_numpy(value)}
    owned = (shard for shard in value.addressable_shards if shard.replica_id == 0)
    return {_part(shard.index, value.shape): np.asarray(shard.data) for shard in owned}


def needed_parts(variable: keras.Variable) -> list:
    """The shards of this process's devices."""
    value = variable.value
    if value.is_fully_replicated:
        return [None]
    indices = value.sharding.addressable_devices_indices_map(value.shape).values()
    return list({_part(index, value.shape) for index in indices})


def assign_parts(variable: keras.Variable, parts: dict) -> None:
    """Each device gets its shard, and none the whole."""
    value = variable.value
    whole = parts.get(None)
    if whole is None:
        whole = jax.make_array_from_callback(
            value.shape, value.sharding, lambda index: parts[_part(index, value.shape)]
        )
    variable.assign(whole)


def file_number(model: keras.Model, variables: Sequence[keras.Variable]) -> tuple[int, int]:
    """One file for each process if something is split over them."""
    values = (variable.value for variable in variables)
    split = not all(v.is_fully_addressable or v.is_fully_replicated for v in values)
    return jax.process_index(), jax.process_count() if split else 1


def _part(index: Any, shape: tuple[int, ...]) -> tuple:
    return tuple(along.indices(size)[:2] for along, size in zip(index, shape, strict=True))


def from_all_processes(model: keras.Model, number: int) -> list[int]:
    """In the order of the processes."""
    numbers = multihost_utils.process_allgather(np.array([number]))
    return numbers.reshape(-1).tolist()


def _after(d_outputs: Nested, tensors: tuple) -> list:
    """The same tensors, which cannot be had before the gradients."""
    first = next(d_output for d_output in jax.tree.leaves(d_outputs) if _is_float(d_output))
    first = jnp.sum(first[(slice(0, 1),) * first.ndim])
    # Always false, but no compiler can prove it: so it cannot remove the dependency.
    never = jnp.isnan(first) & jnp.isinf(first)
    return [t + never.astype(t.dtype) if _is_float(t) else t for t in tensors]


def _is_float(tensor: Tensor) -> bool:
    return jnp.issubdtype(tensor.dtype, jnp.floating)
