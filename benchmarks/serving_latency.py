"""From raw strings to answers at BERT-base size: our servable compared with keras-hub's and torch.

    python benchmarks/serving_latency.py classify              # all sides, all cases
    python benchmarks/serving_latency.py classify --sides ours keras_hub --cases 1x128
    python benchmarks/serving_latency.py tokenize

`classify`: a classifier with random weights, a case is BATCHxTOKENS. SavedModels run in a session,
as TF Serving runs them, and keras-hub's is exported once for each width, which spares it padding.
Each side runs in its own process; the rounds alternate between the sides, since the speed of a
machine changes over time. `tokenize`: strings of 80 words a second, one call on the whole batch, or
tf.data and tokenizers' own threads on all cores. Both append lines to
benchmarks/results/serving_latency.jsonl.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import _results
import _workers

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "serving_latency.jsonl"
CASES = {"1x32": 120, "1x128": 80, "16x32": 15, "16x128": 8}  # and how many rounds
VOCABULARY_SIZE, CLASSES, WORDS = 30_522, 2, 80
SIDES = {  # name: function below, its options
    "ours": ("ours", {}),
    "ours_bf16": ("ours", {"compute_dtype": "bfloat16"}),
    "keras_hub": ("keras_hub", {}),
    "keras_hub_bf16": ("keras_hub", {"mixed": True}),
    "torch": ("transformers", {}),
    "torch_bf16_compile": ("transformers", {"fast": True}),
}


def sides_here():
    """All whose type the processor has instructions for."""
    everything = _results.has_bfloat16()
    return [side for side in SIDES if everything or "bf16" not in side]


def ours(folder, compute_dtype=None):
    """A published classifier."""
    import keras

    from keras_attn import data, export, models

    keras.utils.set_random_seed(0)
    model = models.bert_tasks.classifier(models.bert.encoder("bert_base"), CLASSES)
    published = export.publish(
        model,
        Path(folder, f"ours_{compute_dtype}"),
        preprocessor=data.BertPreprocessor(Path(folder, "vocab.txt"), length=128),
        signatures=["serving_default"],
        compute_dtype=compute_dtype,
    )
    run = load(published.path)
    return lambda texts, tokens: run("serving_default", texts)


def keras_hub(folder, mixed=False):
    """keras-hub's preprocessor and classifier, exported by hand with a signature for each width."""
    import keras
    import keras_hub
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.BertBackbone(VOCABULARY_SIZE, 12, 12, 768, 3072)
    model = keras_hub.models.BertTextClassifier(backbone, CLASSES)
    vocabulary = Path(folder, "vocab.txt").read_text().splitlines()
    tokenizer = keras_hub.models.BertTokenizer(vocabulary, lowercase=True)

    def answers(layer):
        return lambda text: {"logits": model(layer(text), training=False)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    for tokens in sorted({int(case.partition("x")[2]) for case in CASES}):
        layer = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=tokens)
        spec = tf.TensorSpec([None], tf.string, "text")
        archive.add_endpoint(f"tokens_{tokens}", answers(layer), input_signature=[spec])
    path = Path(folder, f"keras_hub_{mixed}", "1")
    archive.write_out(str(path), verbose=False)
    run = load(path, mixed)
    return lambda texts, tokens: run(f"tokens_{tokens}", texts)


def transformers(folder, fast=False):
    """BertForSequenceClassification on torch; fast: in bfloat16 and compiled."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    tokenizer = BertTokenizerFast(str(Path(folder, "vocab.txt")))
    model = BertForSequenceClassification(BertConfig(num_labels=CLASSES)).eval()
    if fast:
        model = torch.compile(model.to(torch.bfloat16))

    def answer(texts, tokens):
        with torch.inference_mode():
            rows = tokenizer(
                texts, truncation=True, max_length=tokens, padding=True, return_tensors="pt"
            )
            return model(**rows).logits.float().numpy()

    return answer


def load(path, mixed=False):
    """A SavedModel's signatures, from strings to logits, in a session."""
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto()
    if mixed:
        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = 1
    graph = tf.Graph()
    with graph.as_default():
        session = tf.compat.v1.Session(config=config)
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], str(path)).signature_def
        calls = {
            name: session.make_callable(
                next(iter(signature.outputs.values())).name, [signature.inputs["text"].name]
            )
            for name, signature in signatures.items()
            if not name.startswith("__")
        }
    return lambda name, texts: calls[name](texts)


def answers_of(side, folder):
    """Answers a case with its seconds and the logits."""
    texts = json.loads(Path(folder, "texts.json").read_text())
    function, options = SIDES[side]
    run = globals()[function](folder, **options)

    def answer(case):
        batch, tokens = map(int, case.split("x"))
        rows = texts[str(tokens)][:batch]
        start = time.perf_counter()
        logits = run(rows, tokens)
        return time.perf_counter() - start, logits.tolist()

    return answer


def prepare(folder, vocabulary_size, tokens):
    """A vocabulary of BERT's size, and texts of at least that many tokens, cut from real ones."""
    sys.path.insert(0, str(ROOT))
    from keras_attn import data

    table = data.read_table(ROOT / "examples" / "data" / "libreoffice_help.tsv.gz")
    paragraphs = [p for d in data.table_documents(table, "en").values() for p in d]
    vocabulary = data.train_vocabulary(paragraphs, 8000)
    vocabulary += [f"[unused{i}]" for i in range(vocabulary_size - len(vocabulary))]
    Path(folder, "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    words, texts = " ".join(paragraphs).split(), {}
    tokenizer = data.BertTokenizer(vocabulary)
    for wanted in tokens:
        rows, start = [], 0
        while len(rows) < 16:
            row = words[start : start + wanted]
            lengths = tokenizer(row).row_lengths().numpy().cumsum()
            row = row[: int((lengths < wanted - 2).sum()) + 1]
            rows.append(" ".join(row))
            start += len(row)
        texts[wanted] = rows
    Path(folder, "texts.json").write_text(json.dumps(texts))
    return words, vocabulary


def classify(options):
    """One worker a side, timed in turn."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        prepare(
            folder, VOCABULARY_SIZE, sorted({int(case.partition("x")[2]) for case in options.cases})
        )
        # One at a time: two that export at once would need the memory of both.
        started = {
            side: _workers.start(side, __file__, "classify", "--folder", folder)
            for side in options.sides or sides_here()
        }
        workers = {side: worker for side, worker in started.items() if worker}
        for case in options.cases:
            # The first calls build plans, and torch compiles.
            logits = {
                side: np.array([_workers.ask(worker, case) for _ in range(3)][0][1])
                for side, worker in workers.items()
            }
            seconds = {side: [] for side in workers}
            for _ in range(options.rounds or CASES[case]):
                for side, worker in workers.items():
                    seconds[side].append(_workers.ask(worker, case)[0])
            record = {
                "what": "classify",
                "case": case,
                "rounds": options.rounds or CASES[case],
                "milliseconds": {s: rounded(t) for s, t in seconds.items()},
                "p99": {s: round(1e3 * float(np.quantile(t, 0.99)), 1) for s, t in seconds.items()},
                "throughput_of_first": ratios(seconds, next(iter(seconds))),
                "bf16_differs_by": difference(logits, "ours"),
            }
            _results.keep(record | _results.machine(), RESULTS)
        _workers.stop(workers)


def rounded(seconds):
    """The median in milliseconds."""
    return round(1e3 * statistics.median(seconds), 1)


def ratios(seconds, first):
    """How many times a side's throughput the first one has."""
    own = statistics.median(seconds[first])
    return {side: round(statistics.median(t) / own, 2) for side, t in seconds.items()}


def difference(logits, side):
    """How far the side's answers in bfloat16 are from its answers in float32."""
    if side not in logits or f"{side}_bf16" not in logits:
        return None
    return round(float(abs(logits[side] - logits[f"{side}_bf16"]).max()), 4)


def tokenize(options):
    """Strings of 80 words a second."""
    with tempfile.TemporaryDirectory() as folder:
        words, vocabulary = prepare(folder, 8000, [])
        import keras_hub
        import tensorflow as tf
        from tokenizers import BertWordPieceTokenizer

        from keras_attn import data

        texts = [" ".join(words[i : i + WORDS]) for i in range(0, WORDS * 2048, WORDS)]
        rust = BertWordPieceTokenizer(str(Path(folder, "vocab.txt")), lowercase=True)
        layers = {
            "ours": data.BertTokenizer(vocabulary),
            "keras_hub": keras_hub.models.BertTokenizer(vocabulary, lowercase=True),
        }
        rows = tf.data.Dataset.from_tensor_slices(texts).batch(64)
        sides = {}
        for name, layer in layers.items():
            graph = tf.function(ids_of(layer), [tf.TensorSpec([None], tf.string)])
            stream = rows.map(graph, os.cpu_count())
            sides[name] = lambda graph=graph: graph(texts).numpy()
            sides[f"{name}_tf_data"] = lambda stream=stream: [ids.numpy() for ids in stream]
        sides["rust"] = lambda: [rust.encode(text) for text in texts]
        sides["rust_threads"] = lambda: rust.encode_batch(texts)
        expected = [e.ids[1:-1] for e in sides["rust_threads"]()]
        assert layers["ours"](texts).to_list() == expected
        seconds = {side: [] for side in sides}
        for _ in range(options.rounds or 7):
            for side, run in sides.items():
                start = time.perf_counter()
                run()
                seconds[side].append(time.perf_counter() - start)
        rates = {s: round(len(texts) / statistics.median(t)) for s, t in seconds.items()}
        record = {"what": "tokenize", "rounds": options.rounds or 7, "strings_a_second": rates}
        _results.keep(record | _results.machine(), RESULTS)


def ids_of(tokenizer):
    """A function from strings to all their ids."""
    return lambda text: tokenizer(text).flat_values


def main():
    """Run one of the two questions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["classify", "tokenize"])
    parser.add_argument("--sides", nargs="+", default=[], choices=SIDES)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--rounds", type=int, help="fewer or more than usual")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.worker:
        return _workers.serve(lambda: answers_of(options.worker, options.folder))
    return classify(options) if options.what == "classify" else tokenize(options)


if __name__ == "__main__":
    main()
