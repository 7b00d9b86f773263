"""Which cache is cheaper to decode with: one of fixed length, or one that grows by a row a token?

    python benchmarks/cache.py               # batches of 1 and of 8
    python benchmarks/cache.py --batches 1

The key/value caches of GPT-2-small (12 layers, 12 heads of 64), a prompt of 32 and 128 new tokens,
in one tf.while_loop. A step writes a row into each cache and attends to it with one query; nothing
else. The fixed cache is the one of `keras_attn.ops.cache`. The rounds alternate between the sides.
Writes a JSON line a batch.
"""

import argparse
import os
import pathlib
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from _results import keep, machine

from keras_attn import ops
from keras_attn.ops import cache as caches

LAYERS, HEADS, WIDTH = 12, 12, 64
PROMPT, NEW, ROUNDS = 32, 128, 7


def fixed(batch: int) -> Callable:
    """Decode with caches of the final length; later positions are masked."""

    def step(index, row, cache):
        cache = caches.append(cache, row, row, index)
        mask = ops.AttentionMask(causal=True, query_offset=index)
        return ops.attention(row, *caches.read(cache), mask=mask), cache

    start = [caches.create(batch, PROMPT + NEW, HEADS, WIDTH) for _ in range(LAYERS)]
    return _decoder(batch, step, start, growing=False)


def growing(batch: int) -> Callable:
    """Decode with caches to which a row is appended."""

    def step(index, row, cache):
        new = caches.store(row, row)
        cache = {name: tf.concat([cache[name], new[name]], 2) for name in cache}
        return ops.attention(row, *caches.read(cache)), cache

    start = [caches.create(batch, PROMPT, HEADS, WIDTH) for _ in range(LAYERS)]
    return _decoder(batch, step, start, growing=True)


def _decoder(batch: int, step: Callable, start: list, growing: bool) -> Callable:
    length = None if growing else PROMPT + NEW
    shapes = tf.nest.map_structure(
        lambda _: tf.TensorShape((batch, HEADS, length, WIDTH)), tuple(start)
    )

    def body(index, row, cache):
        updated = []
        for layer in cache:
            row, layer = step(index, row, layer)
            updated.append(layer)
        return index + 1, tf.ensure_shape(row, (batch, 1, HEADS, WIDTH)), tuple(updated)

    @tf.function
    def decode(row):
        loop = tf.while_loop(
            lambda index, *_: index < PROMPT + NEW,
            body,
            (tf.constant(PROMPT), row, tuple(start)),
            shape_invariants=(tf.TensorShape(()), row.shape, shapes),
            parallel_iterations=1,
        )
        return loop[1]

    row = tf.random.normal((batch, 1, HEADS, WIDTH))
    return lambda: decode(row).numpy()


def main() -> None:
    """Measure each batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    for batch in parser.parse_args().batches:
        sides = {"fixed": fixed(batch), "growing": growing(batch)}
        spent = {name: [] for name in sides}
        for turn in range(ROUNDS + 1):
            for name, decode in sides.items():
                began = time.perf_counter()
                decode()
                if turn:  # the first traces
                    spent[name].append(1000 * (time.perf_counter() - began) / NEW)
        record = {
            "batch": batch,
            "milliseconds_a_token": {n: round(statistics.median(t), 3) for n, t in spent.items()},
            **machine(),
        }
        keep(record, pathlib.Path(__file__).parent / "results" / "cache.jsonl")


if __name__ == "__main__":
    main()
