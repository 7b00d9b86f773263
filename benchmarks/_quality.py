"""Shared by the comparisons of quality: the same training for our blocks and for keras-hub's."""

import argparse
import pathlib
import time
from collections.abc import Callable
from types import ModuleType

import _shared
import keras
import tensorflow as tf
from _results import keep, machine

RESULTS = pathlib.Path(__file__).parent / "results"

# Muon's update applies to two-dimensional weights only: those of keras-hub's attention have three
# dimensions and get Adam's, so each side can also be measured with Adam alone.
OPTIMIZERS = {
    "muon": lambda example, steps: keras.optimizers.Muon(
        _shared.schedule(example.LEARNING_RATE, steps)
    ),
    "adam": lambda example, steps: keras.optimizers.Adam(_shared.schedule(1e-3, steps)),
}


def parser(description: str, steps: int, results: str) -> argparse.ArgumentParser:
    """The options of a comparison."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--blocks", nargs="+", default=["keras_attn", "keras_hub"])
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="muon")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS / results)
    return parser


def compare(
    arguments: argparse.Namespace,
    example: ModuleType,
    builders: dict[str, Callable[[], keras.Model]],
    stream: Callable[[int], tf.data.Dataset],
    scores: Callable[[keras.Model], dict],
) -> None:
    """Train each side with each seed in turn as the example does, and keep its scores.

    Args:
        arguments: arguments of `parser`.
        example: the module that tells `LEARNING_RATE` and `compile_model`.
        builders: what builds the model of each side.
        stream: the endless training data of a seed.
        scores: what to keep of a trained model.
    """
    for seed in arguments.seeds:
        for name in arguments.blocks:
            keras.utils.set_random_seed(seed)
            model = builders[name]()
            example.compile_model(model, OPTIMIZERS[arguments.optimizer](example, arguments.steps))
            data = stream(seed).prefetch(tf.data.AUTOTUNE)
            began = time.time()
            model.fit(data, steps_per_epoch=arguments.steps, verbose=0, shuffle=False)
            record = {
                "blocks": name,
                "optimizer": arguments.optimizer,
                "seed": seed,
                "steps": arguments.steps,
                "seconds": round(time.time() - began, 1),
                "weights": model.count_params(),
                **{key: round(value, 4) for key, value in scores(model).items()},
                **machine(),
            }
            keep(record, arguments.results)
