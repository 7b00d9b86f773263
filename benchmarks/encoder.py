"""An encoder of BERT-base size, inference in float32: our SavedModel compared with three others.

    python benchmarks/encoder.py                            # all sides, both cases
    python benchmarks/encoder.py --cases 8x128 --rounds 5

All sides load one checkpoint in transformers' format, and their outputs are compared before
anything is timed. A case is BATCHxLENGTH, without padding. Each side runs in its own process; the
rounds alternate between the sides, since the speed of a machine changes. "ours_onednn" is ours with
TF_ENABLE_ONEDNN_OPTS=1, which matters where TensorFlow leaves it off. keras-hub computes the gelu
by tanh, so it differs by some 1e-3. A side whose package is missing is skipped by name. Appends a
line for each case to benchmarks/results/encoder.jsonl.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import _results
import _workers

RESULTS = Path(__file__).parent / "results" / "encoder.jsonl"
CASES = {"8x128": 9, "2x512": 9}  # and the number of rounds


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


def onnxruntime(checkpoint, folder):
    """The same through onnxruntime, from torch's own export to ONNX."""
    import onnxruntime
    import torch
    import transformers

    class Encoder(torch.nn.Module):
        """With only the input and the output that are compared."""

        def __init__(self):
            super().__init__()
            self.model = transformers.BertModel.from_pretrained(
                checkpoint, attn_implementation="sdpa"
            )

        def forward(self, token_ids):
            return self.model(input_ids=token_ids).last_hidden_state

    path = Path(folder, "model.onnx")
    torch.onnx.export(
        Encoder().eval(),
        (torch.ones(2, 16, dtype=torch.long),),
        path,
        dynamo=False,
        input_names=["token_ids"],
        output_names=["sequence_output"],
        dynamic_axes={"token_ids": {0: "batch", 1: "length"}},
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda token_ids: session.run(None, {"token_ids": token_ids.astype("int64")})[0]


SIDES = {
    "ours": (ours, {}),
    "ours_onednn": (ours, {"TF_ENABLE_ONEDNN_OPTS": "1"}),
    "keras_hub": (keras_hub, {}),
    "torch": (torch, {}),
    "onnxruntime": (onnxruntime, {}),
}


def work(side, checkpoint):
    """Answer a case with its time in seconds and a few values of the output."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:

        def make():
            run = SIDES[side][0](checkpoint, folder)

            def answer(case):
                shape = tuple(map(int, case.split("x")))
                token_ids = np.random.default_rng(0).integers(5, 1000, shape, dtype="int32")
                start = time.perf_counter()
                output = run(token_ids)
                seconds = time.perf_counter() - start
                return seconds, output[:, ::37, ::97].ravel().tolist()

            return answer

        _workers.serve(make)


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
        return work(options.worker, options.checkpoint)
    with tempfile.TemporaryDirectory() as checkpoint:
        checkpoint_of_base_size(checkpoint)
        # One at a time: two that export at once would need the memory of both.
        workers = {
            side: _workers.start(side, __file__, "--checkpoint", checkpoint, **SIDES[side][1])
            for side in options.sides
        }
        workers = {side: worker for side, worker in workers.items() if worker}
        for case in options.cases:
            outputs = {
                side: [_workers.ask(worker, case) for _ in range(3)][0][1]
                for side, worker in workers.items()
            }
            differs = {
                side: float(np.abs(np.subtract(found, outputs["ours"])).max())
                for side, found in outputs.items()
            }
            assert max(differs.values()) < 1e-3, differs
            count = options.rounds or CASES[case]
            rounds = (
                {side: _workers.ask(worker, case)[0] for side, worker in workers.items()}
                for _ in range(count)
            )
            record = {
                "case": case,
                "rounds": count,
                **_workers.medians(rounds),
                "differs_by": {side: f"{found:.1e}" for side, found in differs.items()},
                **_results.machine(),
            }
            _results.keep(record, RESULTS)
        _workers.stop(workers)
    return None


if __name__ == "__main__":
    main()
