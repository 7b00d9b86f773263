"""What does `keras_attn.upgrade` change in existing models: outputs, step time, memory?

    python benchmarks/upgrade.py                                   # all families, all backends
    python benchmarks/upgrade.py --families user --lengths 128 --backends jax

Models of a dozen families, two layers of width 64, batch 1, before and after, each in its own
process, with the same random weights. A step is one of training, by SGD; runs alternate between the
two, since the speed of a machine changes over time, and medians are kept. The peak is what the
process held at most, above what it held with the model built. "does not fit" means that a process
ran out of memory. Appends a line for each case to benchmarks/results/upgrade.jsonl.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import _results

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "upgrade.jsonl"
BACKENDS = ("tensorflow", "jax", "torch")
LENGTHS = (128, 512, 4096)
SIDES = ("before", "after")
NAMES = (
    *("functional", "functional, causal", "functional, padding and pooling"),
    *("functional, grouped heads", "functional, one head", "user layers", "Sequential"),
    *("subclassed, causal", "keras-hub encoder", "BERT", "DistilBERT", "GPT-2", "Llama"),
)


def work(family, length, side):
    """Answer each line of the input with the time of a step; first print the model's outputs."""
    import resource

    import keras
    import numpy as np
    from _upgrade_models import FAMILIES

    import keras_attn

    def held(what):
        status = Path("/proc/self/status").read_text()
        return int(status.split(f"{what}:")[1].split()[0]) / 1024

    keras.utils.set_random_seed(0)
    model, batch = FAMILIES[family](length)
    model(batch)
    report = {"replaced": 0, "left": 0}
    if side == "after":
        result = keras_attn.upgrade(model, batch)
        model, report = result.model, {"replaced": len(result.replaced), "left": len(result.left)}
    outputs = keras.tree.flatten(model.predict_on_batch(batch))
    targets = keras.tree.map_structure(np.zeros_like, model.predict_on_batch(batch))
    model.compile("sgd", "mse")
    before = held("VmRSS")
    model.train_on_batch(batch, targets)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sample = [
        float(x) for output in outputs for x in np.ravel(output)[:: max(1, output.size // 50)]
    ]
    print("RESULT", json.dumps([sample, max(0.0, peak - before), report]), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        model.train_on_batch(batch, targets)
        print("RESULT", json.dumps(time.perf_counter() - start), flush=True)


def start(backend, *what):
    """A worker process."""
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(ROOT),
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    command = [sys.executable, __file__, "--worker", *map(str, what)]
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def answer(worker):
    """The next result of a worker; None if it has ended."""
    lines = (line for line in worker.stdout if line.startswith("RESULT"))
    line = next(lines, None)
    return None if line is None else json.loads(line.removeprefix("RESULT"))


def step(worker):
    """The seconds of one step."""
    worker.stdin.write("step\n")
    worker.stdin.flush()
    return answer(worker)


def measure(backend, family, length, rounds):
    """The record of one case."""
    import numpy as np

    workers, first = {}, {}
    for side in SIDES:  # one after the other, since memory is measured
        workers[side] = start(backend, family, length, side)
        first[side] = answer(workers[side])
    alive = [side for side in SIDES if first[side] is not None]
    seconds = {side: [] for side in alive}
    for _ in range(rounds):
        for side in alive:
            seconds[side].append(step(workers[side]))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    record = {"backend": backend, "family": family, "length": length, "rounds": rounds}
    for side in SIDES:
        if side not in alive:
            record[side] = "does not fit"
            continue
        milliseconds = round(1e3 * statistics.median(seconds[side]), 1)
        record[side] = {"milliseconds": milliseconds, "peak_mib": round(first[side][1], 1)}
    if "after" in alive:
        record |= first["after"][2]
    if len(alive) == 2:
        ours, theirs = (np.array(first[side][0]) for side in reversed(SIDES))
        record["differs_by"] = f"{np.abs(ours - theirs).max() / np.abs(theirs).max():.1e}"
    return record | _results.machine()


def main():
    """Measure each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=NAMES, help=", ".join(NAMES))
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        family, length, side = options.worker
        work(family, int(length), side)
        return
    for backend in options.backends:
        for length in options.lengths:
            for family in NAMES:
                if any(family.startswith(name) for name in options.families):
                    _results.keep(measure(backend, family, length, options.rounds), RESULTS)


if __name__ == "__main__":
    main()
