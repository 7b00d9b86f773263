"""What do attention's kernels cost in time and memory as the length grows?

    python benchmarks/attention_kernels.py time --lengths 1024 2048 4096 --sides ours keras
    python benchmarks/attention_kernels.py memory --lengths 4096 8192 --mask causal
    python benchmarks/attention_kernels.py plot

Forward and backward of one call, batch 1, 8 heads of 64. Each side lives in a process of its own;
`time` goes round the sides, since machines drift, and keeps medians; `memory` is the peak above
what the process held before, with libraries warmed up at a short length. Both append JSON lines to
benchmarks/results/attention_kernels.jsonl, from which `plot` draws.
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

HEADS, WIDTH, WARM = 8, 64, 64
RESULTS = Path(__file__).parent / "results" / "attention_kernels.jsonl"
SIDES = {  # name: backend, kernel of ours or None
    "ours": ("tensorflow", "chunked"),
    "ours_xla": ("tensorflow", "chunked"),
    "ours_reference": ("tensorflow", "reference"),
    "ours_jax": ("jax", "chunked"),
    "ours_torch": ("torch", "auto"),
    "ours_torch_chunked": ("torch", "chunked"),
    "keras": ("tensorflow", None),
    "jax": ("jax", None),
    "torch": ("torch", None),
}


def attend(side, options):
    """The attention of one side, `(query, key, value) -> context`, all [B, T, N, H]."""
    backend, kernel = SIDES[side]
    causal = options.mask == "causal"
    if kernel is not None:
        from keras_attn import ops

        window = options.window if options.mask == "window" else None
        mask = ops.AttentionMask(causal=causal, window=window)
        return lambda *qkv: ops.attention(*qkv, mask=mask, kernel=kernel)
    if options.mask == "window":
        raise SystemExit(f"{side} has no window that saves anything")
    if side == "keras":  # what MultiHeadAttention calls where neither scores nor dropout are asked
        import keras

        return lambda *qkv: keras.ops.dot_product_attention(*qkv, is_causal=causal)
    if side == "jax":
        import jax

        return lambda *qkv: jax.nn.dot_product_attention(*qkv, is_causal=causal)
    from torch.nn.functional import scaled_dot_product_attention

    def torch_attention(*qkv):
        rows = (x.transpose(1, 2) for x in qkv)
        return scaled_dot_product_attention(*rows, is_causal=causal).transpose(1, 2)

    return torch_attention


def step(side, options):
    """A function of the length that runs the side once, to the end, on inputs of that length."""
    import numpy as np

    function, backend = attend(side, options), SIDES[side][0]
    rng = np.random.default_rng(0)

    def arrays(length):
        return [rng.normal(size=(1, length, HEADS, WIDTH)).astype("float32") for _ in range(4)]

    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function(jit_compile=side.endswith("xla"), autograph=False)
        def run(query, key, value, upstream):
            with tf.GradientTape() as tape:
                tape.watch((query, key, value))
                context = function(query, key, value)
            if options.forward:
                return context
            return tape.gradient(context, (query, key, value), upstream)

        def make(length):
            inputs = [tf.cast(x, options.dtype) for x in arrays(length)]
            return lambda: [x.numpy()[0, 0, 0, 0] for x in tf.nest.flatten(run(*inputs))]

    elif backend == "jax":
        import jax
        import jax.numpy as jnp

        @jax.jit
        def run(query, key, value, upstream):
            if options.forward:
                return function(query, key, value)
            context, pull = jax.vjp(function, query, key, value)
            return pull(upstream)

        def make(length):
            inputs = [jnp.asarray(x, options.dtype) for x in arrays(length)]
            return lambda: jax.block_until_ready(run(*inputs))

    else:
        import torch

        def make(length):
            kind = getattr(torch, options.dtype)
            *inputs, upstream = (torch.tensor(x).to(kind) for x in arrays(length))
            leaves = [x.requires_grad_(not options.forward) for x in inputs]

            def run():
                context = function(*leaves)
                if not options.forward:
                    torch.autograd.grad(context, leaves, upstream)

            return run

    return make


def serve(side, options):
    """Answer each length on stdin with the seconds of one run, or with the peak of one, in MiB."""
    make, made = step(side, options), {}
    if options.what == "memory":
        make(WARM)()
    for line in sys.stdin:
        length = int(line)
        run = made.get(length) or made.setdefault(length, make(length))
        ctypes.CDLL(None).malloc_trim(0)  # what is free already must not hide what comes
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        answer = _status("VmHWM") - before if options.what == "memory" else seconds
        print(f"RESULT {answer}", flush=True)


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


class Child:
    """One side in a process of its own."""

    def __init__(self, side, arguments):
        environment = {**os.environ, "KERAS_BACKEND": SIDES[side][0], "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, *arguments, "--serve", side]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def ask(self, length):
        """One number for this length; nothing if the side cannot run it."""
        try:
            self.process.stdin.write(f"{length}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        for line in self.process.stdout:
            if line.startswith("RESULT"):
                return float(line.split()[1])
        return None

    def close(self):
        """Let the process end."""
        self.process.stdin.close()
        self.process.wait()


def measure(options, arguments):
    """Ask all sides for all lengths and keep what they say."""
    for length in options.lengths:
        answers = {side: [] for side in options.sides}
        children = {side: Child(side, arguments) for side in options.sides}
        rounds = 1 if options.what == "memory" else options.rounds + 1
        for turn in range(rounds):
            for side, child in children.items():
                answer = child.ask(length)
                if answer is not None and (turn or options.what == "memory"):
                    answers[side].append(answer)
        for child in children.values():
            child.close()
        for side, found in answers.items():
            median = statistics.median(found) if found else None
            _keep(options, side, length, median)


def _keep(options, side, length, median):
    record = {
        "what": options.what,
        "side": side,
        "length": length,
        "mask": options.mask,
        "window": options.window if options.mask == "window" else None,
        "dtype": options.dtype,
        "forward_only": options.forward,
        "seconds" if options.what == "time" else "extra_peak_mib": median,
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("keras", "tensorflow", "jax", "torch")},
    }
    print(side, length, median, flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(record) + "\n")


def plot():
    """Time and peak against length, float32 without a mask and with a causal one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 8), layout="constrained")
    for row, (what, label) in enumerate((("time", "seconds"), ("memory", "extra_peak_mib"))):
        for column, mask in enumerate(("none", "causal")):
            axis = axes[row][column]
            for side in SIDES:
                points = {
                    r["length"]: r[label]
                    for r in records
                    if (r["what"], r["side"], r["mask"], r["dtype"])
                    == (what, side, mask, "float32")
                    and not r["forward_only"]
                    and r[label] is not None
                }
                if points:
                    axis.loglog(*zip(*sorted(points.items()), strict=True), "o-", label=side)
            axis.set(title=f"mask: {mask}", xlabel="length", ylabel=label)
            axis.legend()
    figure.savefig(RESULTS.with_suffix(".png"), dpi=120)


def main():
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=("time", "memory", "plot"))
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["ours", "keras", "torch"])
    parser.add_argument("--mask", choices=("none", "causal", "window"), default="none")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--forward", action="store_true", help="without the gradient")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options)
    elif options.what == "plot":
        plot()
    else:
        measure(options, sys.argv[1:])


if __name__ == "__main__":
    main()
