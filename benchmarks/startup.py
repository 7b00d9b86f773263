"""The time before a model runs: build, load, trace, first calls, export, publish.

    python benchmarks/startup.py                  # all questions, three rounds, about half an hour
    python benchmarks/startup.py build trace --rounds 1

BERT-base compared with keras-hub's backbone of the same sizes; each side of each round runs in its
own process, and the rounds alternate between the sides. Results are seconds; "trace" also counts
the nodes of the graph with all functions in it, and "export" (4 layers) also measures the size of
the folder. Appends a line for each question to benchmarks/results/startup.jsonl.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "startup.jsonl"
SIDES = ("ours", "keras_hub")
VOCABULARY, WIDTH, HEADS, HIDDEN = 30_522, 768, 12, 3072


def build(side, layers=12):
    """The encoder."""
    if side == "ours":
        from keras_attn import models

        return models.bert.encoder("bert_base", num_layers=layers)
    import keras_hub

    return keras_hub.models.BertBackbone(VOCABULARY, layers, HEADS, WIDTH, HIDDEN)


def batch(model, rows=2, length=16):
    """Zeros of every input."""
    import numpy as np

    return {
        tensor.name: np.zeros((rows, length), "int32" if "mask" not in tensor.name else "bool")
        for tensor in model.inputs
    }


def measure_build(side, _):
    """Build BERT-base twice in one process; the first, with all imports done, counts."""
    import keras  # noqa: F401

    build(side, layers=1)  # imports and one-time initialization
    return {"seconds": timed(lambda: build(side))}


def measure_load(side, folder):
    """Load it from a .keras file."""
    import keras

    path = Path(folder, f"{side}.keras")
    build(side).save(path)
    keras.backend.clear_session()
    return {"seconds": timed(lambda: keras.models.load_model(path))}


def measure_trace(side, _):
    """Trace it with dynamic batch and length."""
    import tensorflow as tf

    model = build(side)
    signature = {
        tensor.name: tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.name)
        for tensor in model.inputs
    }
    function = tf.function(lambda inputs: model(inputs, training=False))
    concrete = []
    seconds = timed(lambda: concrete.append(function.get_concrete_function(signature)))
    graph = concrete[0].graph.as_graph_def()
    nodes = len(graph.node) + sum(len(f.node_def) for f in graph.library.function)
    return {"seconds": seconds, "nodes": nodes}


def measure_predict(side, _):
    """The first `predict`."""
    model = build(side)
    rows = batch(model)
    return {"seconds": timed(lambda: model.predict(rows, verbose=0))}


def measure_fit(side, _):
    """The first step of `fit`, of a classifier."""
    import keras
    import numpy as np

    encoder = build(side)
    outputs = keras.layers.Dense(2)(encoder.output["pooled_output"])
    model = keras.Model(encoder.input, outputs)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rows = batch(model)
    return {"seconds": timed(lambda: model.fit(rows, np.zeros(2), verbose=0))}


def measure_export(side, folder):
    """`model.export` of 4 layers."""
    model = build(side, layers=4)
    path = Path(folder, side)
    seconds = timed(lambda: model.export(path, verbose=False))
    return {"seconds": seconds, "size_over_weights": size(path) / weights(model)}


def measure_publish(side, folder):
    """Ours: `publish` of 4 layers, and a bare import of TensorFlow; keras-hub: `model.export`."""
    if side != "ours":
        return measure_export(side, folder)
    from keras_attn import export

    model = build(side, layers=4)
    base = Path(folder, side)
    seconds = timed(lambda: export.publish(model, base, signatures=["serving_default"]))
    bare = timed(lambda: subprocess.run([sys.executable, "-c", "import tensorflow"], check=True))
    return {
        "seconds": seconds,
        "import_tensorflow": bare,
        "size_over_weights": size(base) / weights(model),
    }


def size(path):
    """Bytes below the folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def weights(model):
    """Bytes of the model's weights."""
    return sum(weight.numpy().nbytes for weight in model.weights)


def timed(function):
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


QUESTIONS = {
    name.removeprefix("measure_"): function
    for name, function in list(globals().items())
    if name.startswith("measure_")
}


def run(question, side):
    """One side of one question in its own process."""
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, question, "--child", side]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("questions", nargs="*", choices=[[], *QUESTIONS], default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(QUESTIONS[arguments.questions[0]](arguments.child, folder)))
        return

    sys.path.insert(0, str(ROOT / "benchmarks"))
    import _results

    for question in arguments.questions or QUESTIONS:
        found = {side: [] for side in SIDES}
        for _ in range(arguments.rounds):
            for side in SIDES:
                found[side].append(run(question, side))
        medians = {
            side: {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
            for side, rounds in found.items()
        }
        ratios = {
            key: round(medians["ours"][key] / medians["keras_hub"][key], 3)
            for key in medians["keras_hub"]
        }
        record = {
            "question": question,
            "rounds": arguments.rounds,
            "median": medians,
            "seconds": {side: [r["seconds"] for r in rounds] for side, rounds in found.items()},
            "ours_over_keras_hub": ratios,
            **_results.machine(),
        }
        _results.keep(record, RESULTS)


if __name__ == "__main__":
    main()
