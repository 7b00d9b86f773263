"""An encoder of BERT-base size, inference in float32: our SavedModel beside keras-hub's and torch.

    python benchmarks/encoder.py                            # all sides, both cases
    python benchmarks/encoder.py --cases 8x128 --rounds 5

All sides load one checkpoint in transformers' format, and their outputs are compared before
anything is timed. A case is BATCHxLENGTH, without padding. Each side lives in a process of its own;
the rounds go round the sides, since machines drift. "ours_onednn" is ours with
TF_ENABLE_ONEDNN_OPTS=1, which matters where TensorFlow leaves it off. keras-hub computes the gelu
by tanh, so it differs by some 1e-3. A side whose package is missing is skipped by name. Appends a
line for each case to benchmarks/results/encoder.jsonl.
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

import _results

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "encoder.jsonl"
CASES = {"8x128": 9, "2x512": 9}  # and how many rounds


def saved_model(model, folder):
    """The exported model's function, from ids and mask to the sequence output as an array."""
    import tensorflow as tf

    model.export(folder, verbose=False)
    names = [tensor.name for tensor in model.inputs]
    serve = tf.saved_model.load(folder).signatures["serving_default"]

    def run(token_ids):
        inputs = {
            name: tf.ones_like(token_ids, "bool" if kind == "bool" else "int32")
            for name, kind in kinds.items()
        }
        for name in names:
            if name.startswith("token"):
                inputs[name] = tf.constant(token_ids)
            elif name.startswith("segment"):
                inputs[name] = tf.zeros_like(token_ids)
        return serve(**inputs)["sequence_output"].numpy()

    kinds = {tensor.name: tensor.dtype for tensor in model.inputs}
    return run


def ours(checkpoint, folder):
    """This library."""
    from keras_attn import weights

    return saved_model(weights.load(checkpoint).model, folder)


def keras_hub(checkpoint, folder):
    """keras-hub's backbone."""
    import keras_hub

    return saved_model(keras_hub.models.BertBackbone.from_preset(checkpoint), folder)


def torch(checkpoint, folder):
    """transformers, with torch's scaled_dot_product_attention."""
    import torch
    import transformers

    model = transformers.BertModel.from_pretrained(checkpoint, attn_implementation="sdpa").eval()

    def run(token_ids):
        with torch.inference_mode():
            return model(torch.from_numpy(token_ids).long()).last_hidden_state.numpy()

    return run


SIDES = {
    "ours": (ours, {}),
    "ours_onednn": (ours, {"TF_ENABLE_ONEDNN_OPTS": "1"}),
    "keras_hub": (keras_hub, {}),
    "torch": (torch, {}),
}


def serve(side, checkpoint):
    """Answer a case on each line of the input: seconds, and a few numbers of the output."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        run = SIDES[side][0](checkpoint, folder)
        print("ready", flush=True)
        for line in sys.stdin:
            rows, length = map(int, line.split("x"))
            token_ids = np.random.default_rng(0).integers(5, 1000, (rows, length), dtype="int32")
            start = time.perf_counter()
            output = run(token_ids)
            seconds = time.perf_counter() - start
            print(json.dumps([seconds, output[:, ::37, ::97].ravel().tolist()]), flush=True)


def checkpoint_of_base_size(folder):
    """Random weights in transformers' format."""
    import transformers

    config = transformers.BertConfig(
        attn_implementation="sdpa", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    transformers.BertModel(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"w{i}" for i in range(config.vocab_size - len(words))]
    Path(folder, "vocab.txt").write_text("\n".join(words) + "\n")


def start(side, checkpoint):
    """The side's process, ready; None if it cannot start."""
    worker = subprocess.Popen(
        [sys.executable, __file__, "--worker", side, "--checkpoint", checkpoint],
        env={
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "PYTHONPATH": str(ROOT),
            **SIDES[side][1],
        },
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    if worker.stdout.readline() == "ready\n":
        return worker
    reason = worker.stderr.read().strip().splitlines()[-1:]
    print(f"skipped {side}: {reason[0] if reason else 'it did not start'}", flush=True)
    return None


def ask(worker, case):
    """What one run of the case gave."""
    worker.stdin.write(f"{case}\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


def main():
    """Compare, then time."""
    import numpy as np

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--rounds", type=int, help="fewer or more than usual")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.worker:
        return serve(options.worker, options.checkpoint)
    with tempfile.TemporaryDirectory() as checkpoint:
        checkpoint_of_base_size(checkpoint)
        # One at a time: two that export at once would need the memory of both.
        workers = {side: start(side, checkpoint) for side in options.sides}
        workers = {side: worker for side, worker in workers.items() if worker}
        for case in options.cases:
            outputs = {side: [ask(w, case) for _ in range(3)][0][1] for side, w in workers.items()}
            differs = {
                side: float(np.abs(np.subtract(found, outputs["ours"])).max())
                for side, found in outputs.items()
            }
            assert max(differs.values()) < 1e-3, differs
            seconds = {side: [] for side in workers}
            for _ in range(options.rounds or CASES[case]):
                for side, worker in workers.items():
                    seconds[side].append(ask(worker, case)[0])
            median = {side: statistics.median(found) for side, found in seconds.items()}
            record = {
                "case": case,
                "rounds": options.rounds or CASES[case],
                "milliseconds": {side: round(1e3 * found, 1) for side, found in median.items()},
                "least": {side: round(1e3 * min(found), 1) for side, found in seconds.items()},
                "over_ours": {side: round(m / median["ours"], 3) for side, m in median.items()},
                "differs_by": {side: f"{found:.1e}" for side, found in differs.items()},
                **_results.machine(),
            }
            _results.keep(record, RESULTS)
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    return None


if __name__ == "__main__":
    main()
