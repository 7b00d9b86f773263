"""The sides that `attention_kernels.py` compares, one process for each case.

    echo 4096 | python benchmarks/_attention_sides.py '{"side": "ours"}' time

answers each length on stdin with the seconds of one run, or with the peak of one, in MiB.
"""

import contextlib
import ctypes
import dataclasses
import functools
import json
import sys
import time
from pathlib import Path

WIDTH, WINDOW, WARM = 64, 256, 64  # the window is the number of keys on each side
SIDES = {  # name: backend, kernel of ours or None
    "ours": ("tensorflow", "chunked"),
    "ours_xla": ("tensorflow", "chunked"),
    "ours_reference": ("tensorflow", "reference"),
    "ours_layer": ("tensorflow", "auto"),
    "ours_jax": ("jax", "auto"),
    "ours_jax_chunked": ("jax", "chunked"),
    "ours_jax_reference": ("jax", "reference"),
    "ours_torch": ("torch", "auto"),
    "ours_torch_chunked": ("torch", "chunked"),
    "ours_torch_reference": ("torch", "reference"),
    "keras": ("tensorflow", None),
    "keras_layer": ("tensorflow", None),
    "jax": ("jax", None),
    "jax_plain": ("jax", None),
    "torch": ("torch", None),
    "torch_flash": ("torch", None),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One side, as one process runs it."""

    side: str
    mask: str = "none"
    dtype: str = "float32"
    forward: bool = False
    dropout: float = 0.0
    batch: int = 1
    heads: int = 8
    repeats: int = 1  # how often a run calls it before it waits, on JAX and torch


def attend(case):
    """The attention of one side, `(query, key, value) -> context`, all [B, T, N, H]."""
    _, kernel = SIDES[case.side]
    causal = case.mask == "causal"
    if case.side.endswith("layer"):
        return _layer(case)
    if kernel is not None:
        from keras_attn import ops

        mask = ops.AttentionMask(
            causal=causal, window=WINDOW + 1 if case.mask == "window" else None
        )
        return lambda *qkv: ops.attention(*qkv, mask=mask, kernel=kernel)
    if case.side == "keras":  # what MultiHeadAttention calls where no scores or dropout are asked
        import keras

        return lambda *qkv: keras.ops.dot_product_attention(*qkv, is_causal=causal)
    if case.side.startswith("jax"):
        import jax

        fused = "cudnn" if jax.default_backend() == "gpu" else None
        fused = "xla" if case.side == "jax_plain" else fused
        return lambda *qkv: jax.nn.dot_product_attention(
            *qkv, is_causal=causal, implementation=fused
        )
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    kernel_of = contextlib.nullcontext
    if case.side == "torch_flash":
        kernel_of = functools.partial(sdpa_kernel, SDPBackend.FLASH_ATTENTION)

    def torch_attention(*qkv):
        rows = (x.transpose(1, 2) for x in qkv)
        with kernel_of():
            return scaled_dot_product_attention(*rows, is_causal=causal).transpose(1, 2)

    return torch_attention


def _layer(case):
    """Self-attention by a layer, which reads [B, T, N H] from the query and ignores the others."""
    import keras

    from keras_attn import layers

    causal, training = case.mask == "causal", not case.forward
    if case.side == "ours_layer":
        ours = layers.MultiHeadSelfAttention(case.heads, causal=causal, dropout=case.dropout)
        layer = lambda x: ours(x, training=training)  # noqa: E731
    else:
        theirs = keras.layers.MultiHeadAttention(case.heads, WIDTH, dropout=case.dropout)
        layer = lambda x: theirs(x, x, use_causal_mask=causal, training=training)  # noqa: E731
    rows = (case.batch, -1, case.heads * WIDTH)
    layer(keras.ops.zeros((case.batch, WARM, case.heads * WIDTH)))  # creates the weights
    return lambda query, *_: layer(keras.ops.reshape(query, rows))


def step(case):
    """A function from the length to a function that runs the case once and waits for it."""
    import numpy as np

    function, backend = attend(case), SIDES[case.side][0]
    rng = np.random.default_rng(0)

    def arrays(length):
        shape = (case.batch, length, case.heads, WIDTH)
        return [rng.normal(size=shape).astype("float32") for _ in range(4)]

    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function(jit_compile=case.side.endswith("xla"), autograph=False)
        def run(query, key, value, upstream):
            with tf.GradientTape() as tape:  # watches the weights of a layer automatically
                tape.watch((query, key, value))
                context = function(query, key, value)
            if case.forward:
                return context
            sources = (query, key, value, *tape.watched_variables())
            upstream = tf.reshape(upstream, tf.shape(context))
            return [g for g in tape.gradient(context, sources, upstream) if g is not None]

        def make(length):
            inputs = [tf.cast(x, case.dtype) for x in arrays(length)]
            return lambda: [tf.reshape(x, (-1,))[0].numpy() for x in tf.nest.flatten(run(*inputs))]

    elif backend == "jax":
        import jax
        import jax.numpy as jnp

        @jax.jit
        def run(query, key, value, upstream):
            if case.forward:
                return function(query, key, value)
            context, pull = jax.vjp(function, query, key, value)
            return pull(upstream)

        def make(length):
            inputs = [jnp.asarray(x, case.dtype) for x in arrays(length)]

            def repeated():
                for _ in range(case.repeats):
                    outputs = run(*inputs)
                jax.block_until_ready(outputs)

            return repeated

    else:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"

        def make(length):
            kind = getattr(torch, case.dtype)
            *inputs, upstream = (torch.tensor(x, device=device).to(kind) for x in arrays(length))
            leaves = [x.requires_grad_(not case.forward) for x in inputs]

            def run():
                for _ in range(case.repeats):
                    context = function(*leaves)
                    if not case.forward:
                        torch.autograd.grad(context, leaves, upstream)
                if device == "cuda":
                    torch.cuda.synchronize()

            return run

    return make


def serve(case, what):
    """Answer each length on stdin with the seconds of one run, or its peak memory in MiB."""
    make, made = step(case), {}
    if what == "memory":
        make(WARM)()
    for line in sys.stdin:
        length = int(line)
        run = made.get(length) or made.setdefault(length, make(length))
        ctypes.CDLL(None).malloc_trim(0)  # memory that is already free must not hide new use
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        answer = _status("VmHWM") - before if what == "memory" else seconds
        print(f"RESULT {answer}", flush=True)


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


if __name__ == "__main__":
    serve(Case(**json.loads(sys.argv[1])), sys.argv[2])
