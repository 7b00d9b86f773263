"""Why attention is as it is: six claims, each measured with our code and compared with theory.

    python examples/why_attention.py       # a few minutes on two cores; one page of pictures

1 order and positions, 2 sinusoids, 3 why the scores are scaled, 4 dot or additive, 5 the costs in
Table 1 of the Transformer's paper, 6 its choices. The page is written to --output.
"""

import argparse
import functools
import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _runs
import keras
import matplotlib
import numpy as np
import tensorflow as tf

from keras_attn import layers, ops
from keras_attn.ops import positions, scores, selection

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

REPEATS = 7  # of each timing; the median is used, and compared runs alternate
SEEDS = (1, 2, 3)
SCORES = ("dot", "scaled_dot", "additive")
WIDTHS = (4, 16, 64, 256)  # of queries and keys, in 3 and 4


def timed(functions: dict[str, Callable]) -> dict[str, float]:
    """Median seconds of each function; they alternate, so that a slow period affects them all."""
    spent: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(REPEATS + 2):
        for name, function in functions.items():
            began = time.perf_counter()
            keras.ops.convert_to_numpy(function())
            if turn > 1:  # the first two trace and warm up
                spent[name].append(time.perf_counter() - began)
    return {name: float(np.median(seconds)) for name, seconds in spent.items()}


def slope(sizes: list[int], values: list[float]) -> float:
    """The exponent e of values that grow like size^e, between the last two sizes."""
    return float(np.log(values[-1] / values[-2]) / np.log(sizes[-1] / sizes[-2]))


def order(axis: plt.Axes) -> None:
    """1. Permute the input: how different are the output and the permuted output?"""
    print("\n1. Attention knows no order: f(permuted x) - permuted f(x), greatest difference")
    x = keras.random.normal((1, 31, 32), seed=1)
    shuffled = np.random.default_rng(1).permutation(31)
    kinds = {
        "none": (None, None),
        "sinusoidal": (layers.SinusoidalPositionEncoding(), None),
        "learned": (layers.LearnedPositionEmbedding(31, initializer="random_normal"), None),
        "rotary": (None, layers.RotaryEmbedding()),
        "ALiBi": (None, layers.ALiBi(4)),
        "T5 buckets": (None, layers.RelativePositionBias(4, initializer="random_normal")),
    }
    moved = {}
    for name, (encoding, inside) in kinds.items():
        keras.utils.set_random_seed(1)
        block = layers.TransformerEncoderBlock(4, 64, position=inside)
        f = (lambda x, e=encoding, b=block: b(e(x))) if encoding else block
        before, after = f(x), f(keras.ops.take(x, shuffled, axis=1))
        moved[name] = float(np.abs(np.asarray(before)[:, shuffled] - np.asarray(after)).max())
        theory = "0 but for rounding" if name == "none" else "more than 0"
        print(f"   positions {name:12}{moved[name]:12.1e}   theory: {theory}")
    axis.bar(moved.keys(), moved.values(), color=["C1"] + ["C0"] * 5)
    axis.set(yscale="log", title="1. permuted input: output moved by", ylabel="greatest difference")
    axis.tick_params(axis="x", rotation=30)


def sinusoids(left: plt.Axes, right: plt.Axes) -> None:
    """2. One matrix maps PE(pos) to PE(pos + k), for every pos."""
    print(
        "\n2. PE(pos + k) = M(k) PE(pos), M(k) made of 2 x 2 rotations; greatest error, pos < 512"
    )
    dim, count = 32, 512
    angles = 10_000.0 ** (-np.arange(0, dim, 2) / dim)
    errors, fitted, even = {}, {}, np.arange(0, count, 2)
    for k in (1, 2, 4, 8, 16, 32, 64, 128):
        table = np.asarray(positions.sinusoids(np.arange(count + k), dim), "float64")
        matrix = np.zeros((dim, dim))
        for i, angle in enumerate(k * angles):
            cos, sin = np.cos(angle), np.sin(angle)
            matrix[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[cos, sin], [-sin, cos]]
        errors[k] = np.abs(table[:count] @ matrix.T - table[k:]).max()
        found = np.linalg.lstsq(table[even], table[even + k], rcond=1e-6)[0]
        fitted[k] = np.abs(table[even + 1] @ found - table[even + 1 + k]).max()
        if k == 8:
            left.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
    left.set(title="2. M(8): PE(pos) to PE(pos + 8)", xticks=[], yticks=[])
    for k in (1, 8, 128):
        print(
            f"   k = {k:3}: {errors[k]:.1e} with the rotations of theory, "
            f"{fitted[k]:.1e} with a matrix fitted on even pos   theory: 0 but for rounding"
        )
    right.plot(errors.keys(), errors.values(), marker="o", label="rotations of theory")
    right.plot(fitted.keys(), fitted.values(), marker="s", label="fitted on even positions")
    right.set(xscale="log", yscale="log", title="2. error of the linear map", xlabel="k")
    right.set(ylim=(1e-8, 10))
    right.legend()


def scaling(left: plt.Axes, right: plt.Axes) -> None:
    """3. The entropy of the attention weights, and the gradient of the logits, as d grows."""
    print("\n3. Queries and keys of variance 1, 64 keys: the maximum is log 64 = 4.16 nats")
    widths = (1, 4, 16, 64, 256, 1024)
    found: dict[str, list[tuple[float, float]]] = {"dot": [], "scaled_dot": []}
    for name, rows in found.items():
        for d in widths:
            q = keras.random.normal((16, 64, d), seed=1)
            k = keras.random.normal((16, 64, d), seed=2)
            direction = keras.random.normal((16, 64, 64), seed=3)
            logits = scores.get(name)(q, k)
            with tf.GradientTape() as tape:
                tape.watch(logits)
                weights = selection.soft(logits)
                loss = keras.ops.sum(weights * direction)
            entropy = -keras.ops.sum(weights * keras.ops.log(weights + 1e-30), axis=-1)
            slopes = keras.ops.norm(tape.gradient(loss, logits), axis=-1)
            rows.append((float(keras.ops.mean(entropy)), float(keras.ops.mean(slopes))))
    # For normal logits of variance v: log E[e^x] - E[x e^x] / E[e^x] = -v / 2 away from log S.
    print("   theory: scaled log 64 - 1/2 = 3.66 nats for large d; not scaled, both go to 0")
    for i, d in enumerate(widths):
        (plain, plain_slope), (scaled, scaled_slope) = found["dot"][i], found["scaled_dot"][i]
        print(
            f"   d = {d:4}: entropy {plain:.2f}, scaled {scaled:.2f}; "
            f"gradient {plain_slope:.3f}, scaled {scaled_slope:.3f}"
        )
    for axis, part, title in ((left, 0, "entropy, nats"), (right, 1, "gradient to the logits")):
        for name, rows in found.items():
            axis.plot(widths, [row[part] for row in rows], marker="o", label=name)
        axis.set(xscale="log", title=f"3. {title}", xlabel="d")
        axis.legend()
    left.axhline(np.log(64) - 0.5, linestyle=":", color="grey")


def recall(score: str, width: int, seed: int, steps: int = 200) -> float:
    """Accuracy of finding, among 8 items, the one whose rotated key is the query."""
    rng, held_out = np.random.default_rng(seed), 512
    count, items, given, classes = steps * 64 + held_out, 8, 8, 8
    turn = np.linalg.qr(rng.normal(size=(given, given)))[0]
    memory = rng.normal(size=(count, items, given))
    labels, asked = rng.integers(classes, size=(count, items)), rng.integers(items, size=count)
    rows = np.arange(count)
    values = np.concatenate([memory, np.eye(classes)[labels]], -1).astype("float32")
    queries = (memory[rows, asked] @ turn)[:, None].astype("float32")
    targets = labels[rows, asked][:, None]

    keras.utils.set_random_seed(seed)
    query, value = keras.Input((1, given)), keras.Input((items, given + classes))
    unit = {"kernel_initializer": "lecun_normal"}  # components of variance 1, as theory has them
    q = keras.layers.Dense(width, **unit)(query)
    k = keras.layers.Dense(width, **unit)(value[..., :given])
    if score == "additive":
        attention = layers.BahdanauAttention(width)
    else:
        attention = layers.LuongAttention(score=score, combine="concatenate")
    _, weights = attention(q, k, return_attention_scores=True)
    context = keras.ops.matmul(weights, value[..., given:])  # [B, 1, classes]
    model = keras.Model([query, value], keras.layers.Dense(classes)(context))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"], jit_compile=False)
    parts = [[queries, values], targets]
    train = [[part[:-held_out] for part in parts[0]], targets[:-held_out]]
    model.fit(*train, batch_size=64, verbose=0)
    test = [[part[-held_out:] for part in parts[0]], targets[-held_out:]]
    return model.evaluate(*test, batch_size=held_out, verbose=0)[1]


def forward_and_backward(score: Callable, q: tf.Tensor, k: tf.Tensor, extra: list) -> Callable:
    """A graph that gives the gradients to queries and keys of a score with its softmax."""

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch([q, k])
            loss = keras.ops.sum(selection.soft(score(q, k, *extra)) ** 2)
        return tf.concat(tape.gradient(loss, [q, k]), -1)

    return step


def dot_or_additive(left: plt.Axes, middle: plt.Axes, right: plt.Axes) -> None:
    """4. Time, memory and quality of the scores as the key width grows."""
    print("\n4. Dot or additive: [8, 128] queries and keys, forward and backward; recall of 1 in 8")
    print(
        "   theory: additive holds T S d numbers, dot T S; not scaled, dot falls behind at large d"
    )
    times, sizes, quality = ({name: [] for name in SCORES} for _ in range(3))
    for d in WIDTHS:
        q, k = (keras.random.normal((8, 128, d), seed=seed) for seed in (1, 2))
        parts = [keras.random.normal(shape, seed=3) for shape in ((d, d), (d, d), (d,))]
        steps = {}
        for name in SCORES:
            extra = parts if name == "additive" else []

            step = forward_and_backward(scores.get(name), q, k, extra)
            steps[name] = step
            tensors = [
                out
                for op in step.get_concrete_function().graph.get_operations()
                for out in op.outputs
                if out.dtype == tf.float32
            ]
            sizes[name].append(max(out.shape.num_elements() or 0 for out in tensors) * 4 / 2**20)
        for name, seconds in timed(steps).items():
            times[name].append(1000 * seconds)
            quality[name].append([recall(name, d, seed) for seed in SEEDS])
        for name in SCORES:
            mean, spread = np.mean(quality[name][-1]), np.ptp(quality[name][-1])
            print(
                f"   d = {d:3} {name:11}{times[name][-1]:8.2f} ms, largest tensor "
                f"{sizes[name][-1]:7.2f} MiB, accuracy {mean:.1%} (spread {spread:.1%})"
            )
    for name in SCORES:
        left.plot(WIDTHS, times[name], marker="o", label=name)
        middle.plot(WIDTHS, sizes[name], marker="o", label=name)
        right.plot(WIDTHS, np.mean(quality[name], axis=1), marker="o", label=name)
    for axis, title in ((left, "time, ms"), (middle, "largest tensor, MiB"), (right, "accuracy")):
        axis.set(xscale="log", title=f"4. {title}", xlabel="key width")
        axis.legend()
    left.set_yscale("log")
    middle.set_yscale("log")
    right.axhline(1 / 8, linestyle=":", color="grey")


WINDOW, KERNEL = 16, 3


def table_one(left: plt.Axes, middle: plt.Axes, right: plt.Axes) -> None:
    """5. The cost of a layer as length n and width d grow, and the path length of a signal."""

    def attention(window: int | None) -> Callable:
        mask = ops.AttentionMask(window=window)
        kernel = "chunked" if window else "reference"
        return lambda x: ops.attention(
            *[x[:, :, None]] * 3, mask=mask, kernel=kernel, block_size=64 if window else None
        )[:, :, 0]

    def layer(kind: str, d: int) -> Callable:
        made = {
            "self-attention": lambda: attention(None),
            "restricted": lambda: attention(WINDOW),
            "recurrent": lambda: keras.layers.SimpleRNN(d, return_sequences=True),
            "convolution": lambda: keras.layers.Conv1D(d, KERNEL, padding="same"),
        }
        return made[kind]()

    kinds = ("self-attention", "restricted", "recurrent", "convolution")
    lengths, widths = [256, 512, 1024, 2048, 4096], [64, 128, 256, 512, 1024]
    costs = {}
    for label, shapes in {
        "n": [(n, 64) for n in lengths],
        "d": [(256, d) for d in widths],
    }.items():
        costs[label] = {kind: [] for kind in kinds}
        for n, d in shapes:
            x = keras.random.normal((1, n, d), seed=1)
            runs = {k: functools.partial(tf.function(layer(k, d)), x) for k in kinds}
            for kind, seconds in timed(runs).items():
                costs[label][kind].append(1000 * seconds)

    def depth(kind: str, n: int = 65) -> int:
        """The number of layers until the last position depends on the first."""
        f, depends = layer(kind, 8), np.zeros((1, n, 1), bool)
        depends[:, 0] = True
        for count in range(1, n + 1):
            # New small inputs for each layer: nothing saturates, and the signal never fades.
            x = np.random.default_rng(count).normal(0, 0.01, (1, n, 8)).astype("float32")
            depends = np.any(np.asarray(f(x)) != np.asarray(f(x + depends)), -1, keepdims=True)
            if depends[0, -1, 0]:
                break
        return count

    theory = {  # cost, exponents of n and d, sequential operations, longest path
        "self-attention": ("n^2 d", 2, 1, "1", "1"),
        "restricted": ("r n d", 1, 1, "1", "n / r"),
        "recurrent": ("n d^2", 1, 2, "n", "n"),
        "convolution": ("k n d^2", 1, 2, "1", "n / k"),
    }
    print("\n5. Table 1, one layer: exponents between the two largest sizes, and theory's in ( )")
    print(
        f"   {'':15}{'cost':>9}{'of n':>11}{'of d':>11}{'sequential':>12}  layers from end to end"
    )
    depths = {kind: depth(kind) for kind in kinds}
    for kind in kinds:
        cost, of_n, of_d, sequential, path = theory[kind]
        print(
            f"   {kind:15}{cost:>9}{slope(lengths, costs['n'][kind]):6.2f} ({of_n})"
            f"{slope(widths, costs['d'][kind]):7.2f} ({of_d}){sequential:>10}"
            f"    {depths[kind]:3} of n = 65   ({path}{', inside the layer' * (path == 'n')})"
        )
    print(
        "   (matrices that outgrow the cache raise an exponent, overheads of small sizes lower it)"
    )
    for axis, label, sizes in ((left, "n", lengths), (middle, "d", widths)):
        for kind in kinds:
            axis.plot(sizes, costs[label][kind], marker="o", label=kind)
        other = "d = 64" if label == "n" else "n = 256"
        axis.set(xscale="log", yscale="log", xlabel=label, title=f"5. time of a layer, ms, {other}")
        axis.set_xticks(sizes, sizes)
        axis.minorticks_off()
        axis.legend(fontsize=7)
    right.bar(depths.keys(), depths.values())
    right.set(title="5. layers from the first position to the last, n = 65", yscale="log")
    right.tick_params(axis="x", rotation=30)


LENGTH, LETTERS, DIM = 12, 20, 64


def reverse(encoding: keras.layers.Layer | None, norm: type, seed: int, epochs: int = 5):
    """Held-out accuracy after each epoch of training to reverse 12 letters."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = keras.layers.Embedding(LETTERS, DIM)(inputs)
    x = encoding(x) if encoding is not None else x
    x = norm()(x)
    x = norm()(x + layers.MultiHeadSelfAttention(4)(x))  # a layer with a norm of any kind
    x = norm()(x + layers.FeedForward(2 * DIM)(x))
    model = keras.Model(inputs, keras.layers.Dense(LETTERS)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"], jit_compile=False)
    letters = np.random.default_rng(seed).integers(LETTERS, size=(epochs * 1600 + 500, LENGTH))
    train, test = letters[:-500].reshape(epochs, -1, LENGTH), letters[-500:]
    reached = []
    for part in train:
        model.fit(part, part[:, ::-1], batch_size=32, verbose=0)
        reached.append(model.evaluate(test, test[:, ::-1], batch_size=500, verbose=0)[1])
    return reached, model.count_params()


def choices(axis: plt.Axes) -> None:
    """6. Learned or sinusoidal, added or concatenated, layer or batch norm, on one task."""
    print("\n6. Writing 12 letters backwards: held-out accuracy, mean of seeds (spread)")
    print(
        "   theory: without positions the best is a guess from the letters that are there; learned"
    )
    print("   and sinusoidal about equal; concatenating costs weights; batch norm is no better")
    sinusoidal, learned = layers.SinusoidalPositionEncoding, layers.LearnedPositionEmbedding
    layer_norm, batch_norm = keras.layers.LayerNormalization, keras.layers.BatchNormalization
    beside = {"combination": "concatenate", "dim": DIM // 2}
    kinds = {
        "no positions": (lambda: None, layer_norm),
        "sinusoidal, added": (sinusoidal, layer_norm),
        "learned, added": (lambda: learned(LENGTH), layer_norm),
        "sinusoidal, concatenated": (lambda: sinusoidal(**beside), layer_norm),
        "learned, concatenated": (lambda: learned(LENGTH, **beside), layer_norm),
        "sinusoidal, batch norm": (sinusoidal, batch_norm),
    }
    for name, (encoding, norm) in kinds.items():
        runs = [reverse(encoding(), norm, seed) for seed in SEEDS]
        curves, weights = np.array([curve for curve, _ in runs]), runs[0][1]
        half, last = curves[:, len(curves[0]) // 2 - 1], curves[:, -1]
        print(
            f"   {name:26}half way {half.mean():6.1%}, at the end {last.mean():6.1%} "
            f"({np.ptp(last):.1%}), {weights:,} weights"
        )
        axis.plot(50 * np.arange(1, len(curves[0]) + 1), curves.mean(0), marker="o", label=name)
    axis.set(title="6. writing backwards: accuracy", xlabel="steps", ylim=(0, 1.02))
    axis.legend(fontsize=7)


def options() -> argparse.ArgumentParser:
    """The command line."""
    return _runs.options(__doc__, "why_attention")


def main(arguments: argparse.Namespace) -> None:
    _runs.begin(arguments)
    began = time.time()
    keras.utils.set_random_seed(1)
    figure, axes = plt.subplots(3, 4, figsize=(20, 13), layout="constrained")
    (a, b, c, d), (e, f, g, h), (i, j, k, m) = axes
    for part, panels in (
        (order, (a,)),
        (sinusoids, (b, c)),
        (scaling, (d, e)),
        (dot_or_additive, (f, g, h)),
        (table_one, (i, j, k)),
        (choices, (m,)),
    ):
        part(*panels)
    figure.savefig(arguments.output / "page.png", dpi=100)
    print(f"\none page: {arguments.output / 'page.png'}; {time.time() - began:.0f} s in total")


if __name__ == "__main__":
    _runs.run(main, options())
