"""A step of pre-training a BERT-base: ours compared with one of keras-hub's layers.

    python benchmarks/pretraining_step.py      # float32; mixed_bfloat16 where the processor has it
    python benchmarks/pretraining_step.py --policies float32 --rounds 3

Forward, two losses, gradient and Adam, on 8 rows of 128 tokens with 20 masked positions, dropout
0.1. Before anything is timed, both take the same weights and three steps of SGD without dropout, of
two layers, and their losses are compared (under Adam they differ: Keras adds the squares of the
parts of a gradient where a row of keras-hub's table occurs twice). Each side runs in its
own process; the rounds alternate between the sides, since the speed of a machine changes. Appends a
line for each policy to benchmarks/results/pretraining_step.jsonl.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import _results
import _workers

RESULTS = Path(__file__).parent / "results" / "pretraining_step.jsonl"
SIDES = ("ours", "keras_hub")
ROWS, LENGTH, MASKED = 8, 128, 20
TOLERANCE = {"float32": 1e-4, "mixed_bfloat16": 2e-2}  # for a loss of about 10


def model_of(side, layers, dropout, optimizer):
    """The model, compiled as the example compiles it."""
    sys.path.insert(0, str(_workers.ROOT / "examples"))
    import bert_pretrain
    import keras
    import pretraining_quality

    from keras_attn import models

    size = models.sizes.BertSize(layers, 768, 12, 3072, dropout=dropout)
    build = {"ours": bert_pretrain.build, "keras_hub": pretraining_quality.hub_model}[side]
    keras.utils.set_random_seed(0)
    model = build(size)
    model.set_weights(weights(model, side, layers))
    bert_pretrain.compile_model(model, keras.optimizers.get(optimizer))
    return model


def weights(model, side, layers):
    """The same random weights for both sides, reordered from our order to the side's."""
    import numpy as np

    given = [weight.shape for weight in model.weights]
    if side == "keras_hub":
        order = [0, 2, 1, 3, 4]  # segments before positions
        for first in range(5, 5 + 16 * layers, 16):  # ours: attention, feed-forward, their norms
            order += [first + i for i in (*range(8), 12, 13, 14, 15, 8, 9, 10, 11)]
        order += range(len(order), len(given))
    else:
        order = range(len(given))
    random = np.random.default_rng(0)
    drawn = {i: random.normal(0, 0.02, given[i]) for i in order}
    return [drawn[i] + ("gamma" in model.weights[i].path) for i in range(len(given))]


def batch():
    """One batch of random tokens."""
    import numpy as np

    random = np.random.default_rng(1)
    inputs = {
        "token_ids": random.integers(5, 30_000, (ROWS, LENGTH), dtype="int32"),
        "segment_ids": np.tile(np.arange(LENGTH, dtype="int32") // (LENGTH // 2), (ROWS, 1)),
        "padding_mask": np.ones((ROWS, LENGTH), bool),
        "masked_positions": np.sort(
            random.permuted(np.tile(np.arange(LENGTH), (ROWS, 1)), axis=1)[:, :MASKED]
        ).astype("int32"),
    }
    labels = {
        "masked_lm": random.integers(5, 30_000, (ROWS, MASKED), dtype="int32"),
        "next_sentence": random.integers(0, 2, ROWS, dtype="int32"),
    }
    return inputs, labels


def answers_of(side, policy):
    """Answers with the losses of three steps of a small model, or the time of a step of a large."""
    import keras

    keras.config.set_dtype_policy(policy)
    small, data = model_of(side, 2, 0.0, "sgd"), batch()
    losses = [float(small.train_on_batch(*data, return_dict=True)["loss"]) for _ in range(3)]
    del small
    model = model_of(side, 12, 0.1, "adam")
    for _ in range(2):
        model.train_on_batch(*data)

    def answer(line):
        if line == "losses":
            return losses
        start = time.perf_counter()
        model.train_on_batch(*data)
        return time.perf_counter() - start

    return answer


def main():
    """Compare, then time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policies", nargs="+", default=[], choices=TOLERANCE)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.worker:
        return _workers.serve(lambda: answers_of(options.worker, *options.policies))
    default = list(TOLERANCE) if _results.has_bfloat16() else ["float32"]
    for policy in options.policies or default:
        started = {side: _workers.start(side, __file__, "--policies", policy) for side in SIDES}
        workers = {side: worker for side, worker in started.items() if worker}
        losses = {side: _workers.ask(worker, "losses") for side, worker in workers.items()}
        differs = {
            side: max(abs(a - b) for a, b in zip(found, losses["ours"], strict=True))
            for side, found in losses.items()
        }
        assert max(differs.values()) < TOLERANCE[policy], losses
        rounds = (
            {side: _workers.ask(worker, "step") for side, worker in workers.items()}
            for _ in range(options.rounds)
        )
        record = {
            "policy": policy,
            "rounds": options.rounds,
            **_workers.medians(rounds),
            "losses": losses,
            **_results.machine(),
        }
        _results.keep(record, RESULTS)
        _workers.stop(workers)
    return None


if __name__ == "__main__":
    main()
