"""ModernBERT and BERT: masked LM on the embedded corpus, at equal steps and at equal time.

    python benchmarks/modern_encoder.py prepare      # once; needs TensorFlow and tensorflow-text
    python benchmarks/modern_encoder.py rates        # optional: each model's learning rate
    python benchmarks/modern_encoder.py all          # what has no result yet, then the figure
    python benchmarks/modern_encoder.py all --length 128 --steps 1400      # minutes a run on a CPU

`prepare` writes the corpus as token ids; the rest needs neither TensorFlow nor a network and runs
on any backend. Each run has its own process and appends a line of JSON.

Equal steps: both models take the same number. Equal time: the faster model takes as many steps as
fit into the time of the slower one, with a schedule that ends there. Seconds are those of training
alone, without the first steps, which compile, and without the evaluations.

What differs is the encoder: norms before or after, biases, gates, windows, positions. All else is
the same: about as many weights; one vocabulary, because losses of a token compare only on equal
tokens; packed rows, where a document sees only itself; masked LM alone (no next sentence), 15 % of
the tokens; no dropout; AdamW and its schedule. The learning rate is 1e-3 for both (as in Geiping
and Goldstein 2022), or each model's best of `rates`, which uses other documents than the results.
BERT's positions start as in examples/bert_pretrain.py.
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

import keras
import numpy as np
from _masked_rows import Batches, Corpus
from _results import device, keep, machine

from keras_attn import models, training
from keras_attn.ops.positions import sinusoids

MODELS = {"bert": "BERT", "modern_bert": "ModernBERT"}
ROOT = Path(__file__).parent.parent
VOCABULARY_SIZE, APART = 8000, {"held_out": 0.1, "dev": 0.05}  # of the documents
LAYERS, WIDTH, HEADS = 4, 256, 4
WEIGHTS_RANGE = WIDTH**-0.5  # of the initial matrices: they keep the variance
POSITION_SCALE = 0.3
RATE, RATES = 1e-3, (6.25e-5, 1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3)
HELD_OUT_SEED, EVERY = 7, 200  # steps between two evaluations
COMPILING = 2  # steps that are not timed
METRICS = ("masked_lm_loss", "masked_lm_accuracy")
SETTING = ("length", "batch", "dtype", "backend", "device")
CASE = ("part", "model", "seed", "steps", "length", "batch", "rate", "dtype")


def prepare(options):
    """Write the ids of all three languages; a document is in one part in all of them."""
    sys.path.insert(0, str(ROOT / "examples"))
    import _shared

    from keras_attn import data

    table = data.read_table(_shared.CORPUS)
    languages = [data.table_documents(table, name) for name in ("en", "de", "zh")]
    parts = {"train": sorted(set().union(*languages))}
    for part, share in APART.items():
        parts["train"], parts[part] = data.split_documents(parts["train"], share)
    texts = {
        part: [documents[name] for documents in languages for name in names if name in documents]
        for part, names in parts.items()
    }
    vocabulary = data.train_vocabulary((p for d in texts["train"] for p in d), VOCABULARY_SIZE)
    tokenizer = data.BertTokenizer(vocabulary)
    arrays = {
        "vocabulary_size": len(vocabulary),
        "special": [vocabulary.index(f"[{n}]") for n in ("PAD", "UNK", "CLS", "SEP", "MASK")],
    }
    for part, documents in texts.items():
        ids = data.tokenize_documents(documents, tokenizer).merge_dims(1, 2)
        arrays[f"{part}_lengths"] = ids.row_lengths().numpy().astype("int32")
        arrays[f"{part}_tokens"] = ids.flat_values.numpy().astype("uint16")
        print(f"{part}: {len(documents)} documents, {len(arrays[f'{part}_tokens']):,} tokens")
    options.corpus.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.corpus, **arrays)


def build(name, vocabulary_size, length, dtype):
    """The masked LM of packed rows."""
    sizes = {"vocabulary_size": vocabulary_size, "initializer_range": WEIGHTS_RANGE}
    if name == "bert":
        size = models.sizes.BertSize(
            *(LAYERS, WIDTH, HEADS, 4 * WIDTH),
            **{"max_length": length, "num_segments": 0, "dropout": 0.0, **sizes},
        )
        encoder = models.bert.encoder(size, dtype=dtype)
        table = POSITION_SCALE * sinusoids(np.arange(length), WIDTH)
        models.parts.of(encoder).encoder.position.table.assign(table)
    else:
        # The gate is a third matrix of the feed-forward network, and there is no table of positions
        size = models.sizes.ModernBertSize(LAYERS, WIDTH, HEADS, 3 * WIDTH, **sizes)
        encoder = models.modern_bert.encoder(size, dtype=dtype)
    return models.packing.packed(models.bert_tasks.masked_lm(encoder))


def optimizer(rate, steps):
    """AdamW with clipped gradients, linear warm-up and decay to zero at the last step."""
    adam = keras.optimizers.AdamW(
        training.WarmupLinearDecay(rate, steps // 10, steps),
        weight_decay=0.01,
        beta_2=0.98,
        global_clipnorm=1.0,
    )
    adam.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "norm"])
    return adam


def compiled(options, vocabulary_size):
    """The model, and the same one for judging: metrics would cost time in training."""
    model = build(options.model, vocabulary_size, options.length, options.dtype)
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    model.compile(optimizer(options.rate, options.steps), loss)
    judge = keras.Model(model.input, model.output)
    metrics = [
        keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="masked_lm_loss"),
        keras.metrics.SparseCategoricalAccuracy(name="masked_lm_accuracy"),
    ]
    judge.compile(loss=loss, weighted_metrics=metrics)
    return model, judge


def train(options):
    """One run; appends its line."""
    corpus, steps, batch = Corpus(options.corpus), options.steps, options.batch
    keras.utils.set_random_seed(options.seed)
    model, judge = compiled(options, corpus.vocabulary_size)
    smallest = min(model.trainable_variables, key=lambda variable: np.prod(variable.shape))
    rows = corpus.rows("train", options.length, batch)
    unseen = corpus.rows("dev" if options.part == "rates" else "held_out", options.length, batch)
    *unseen, weights = corpus.masked(unseen, np.random.default_rng(HELD_OUT_SEED))
    judging = {"sample_weight": weights, "batch_size": batch, "return_dict": True, "verbose": 0}

    seconds, curve = [], []
    marks = [0, COMPILING, *range(EVERY, steps, EVERY), steps]
    for first, last in zip(marks[:-1], marks[1:], strict=True):
        batches = Batches(corpus, rows, batch=batch, seed=options.seed, first=first, last=last)
        began = time.perf_counter()
        model.fit(batches, shuffle=False, verbose=0)
        keras.ops.convert_to_numpy(smallest)  # waits until the last step is over
        seconds.append(time.perf_counter() - began)
        if last > COMPILING:
            scores = judge.evaluate(*unseen, **judging)
            curve.append(
                {"step": last, "seconds": round(sum(seconds[1:]), 2)}
                | {name: round(scores[name], 4) for name in METRICS}
            )
            print(curve[-1], file=sys.stderr, flush=True)
    record = {
        **case(options),
        "weights": model.count_params(),
        "rows": len(rows["token_ids"]),
        "filled": round(float(np.mean(rows["sequence_ids"] > 0)), 3),
        "compiling_seconds": round(seconds[0], 1),
        **{name: curve[-1][name] for name in ("seconds", *METRICS)},
        "curve": curve,
        **machine(),
    }
    keep(record, options.output / "modern_encoder.jsonl")


def case(options):
    """What a line is the result of."""
    asked = {name: getattr(options, name) for name in CASE}
    return {**asked, "backend": keras.backend.backend(), "device": device()}


def results(options, *names):
    """The lines that agree with the options in these names, on this device."""
    path = options.output / "modern_encoder.jsonl"
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    wanted = {name: case(options)[name] for name in (*SETTING, *names)}
    return [line for line in kept if wanted.items() <= line.items()]


def run(options, **changes):
    """The line of a run; trains in a process of its own unless there is one already."""
    options = argparse.Namespace(**vars(options) | changes)
    if not results(options, *CASE):
        given = [f"--{name}={getattr(options, name)}" for name in (*CASE, "corpus", "output")]
        start("train", *given)
    return results(options, *CASE)[-1]


def start(*arguments):
    """This script in a process of its own."""
    subprocess.run([sys.executable, __file__, *arguments], check=True)


def rates(options):
    """Each rate of each model, half of the steps, on the documents that are kept for this."""
    for name in MODELS:
        for rate in RATES:
            found = {"part": "rates", "model": name, "rate": rate, "steps": options.steps // 2}
            run(options, **found)


def best_rate(options, name):
    """The rate with the lowest loss in `rates`, or the common one."""
    asked = argparse.Namespace(**vars(options) | {"part": "rates", "model": name})
    asked.steps = options.steps // 2
    tried = results(asked, "part", "model", "steps")
    return min(tried, key=lambda line: line["masked_lm_loss"], default={"rate": RATE})["rate"]


def compare(options):
    """The runs at equal steps, those at equal time, and the figure."""
    best = {name: best_rate(options, name) for name in MODELS}
    seeds = range(1, options.seeds + 1)
    equal = [
        run(options, part="equal steps", model=name, rate=best[name], seed=seed)
        for seed in seeds
        for name in MODELS
    ]
    seconds = {
        name: statistics.median(line["seconds"] for line in equal if line["model"] == name)
        for name in MODELS
    }
    fast, slow = sorted(MODELS, key=seconds.get)
    steps = COMPILING + round((options.steps - COMPILING) * seconds[slow] / seconds[fast])
    longer = [
        run(options, part="equal time", model=fast, rate=best[fast], seed=seed, steps=steps)
        for seed in seeds
    ]
    draw(options, equal, [line for line in equal if line["model"] == slow] + longer)


def draw(options, equal_steps, equal_time):
    """The held-out loss of each model, its mean and range over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 5), layout="constrained", sharey=True)
    for axis, lines, across in zip(
        axes, (equal_steps, equal_time), ("step", "seconds"), strict=True
    ):
        for name, label in MODELS.items():
            curves = [line["curve"] for line in lines if line["model"] == name]
            place = np.mean([[look[across] for look in curve] for curve in curves], axis=0)
            loss = np.array([[look["masked_lm_loss"] for look in curve] for curve in curves])
            axis.plot(place, loss.mean(axis=0), "o-", markersize=3, label=label)
            axis.fill_between(place, loss.min(axis=0), loss.max(axis=0), alpha=0.3)
        axis.set(title=f"equal {'steps' if across == 'step' else 'time'}", xlabel=across)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_ylabel("held-out masked-LM loss, nats")
    figure.savefig(options.output / "modern_encoder.png", dpi=120)


def main():
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = {"prepare": prepare, "rates": rates, "all": compare, "train": train}
    parser.add_argument("command", choices=commands)
    parser.add_argument("--corpus", type=Path, default=ROOT / "runs" / "modern_encoder.npz")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--seeds", type=int, default=3, help="how many runs of each kind")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--length", type=int, default=1024, help="of a row")
    parser.add_argument("--batch", type=int, default=16, help="rows of a step")
    precision = "float32" if device() == "cpu" else "mixed_bfloat16"
    parser.add_argument("--dtype", default=precision, help="defaults to %(default)s here")
    for name, kind in (("model", str), ("seed", int), ("rate", float), ("part", str)):
        default = {"seed": 1, "rate": RATE, "part": "alone", "model": "modern_bert"}[name]
        parser.add_argument(f"--{name}", type=kind, default=default, help="of `train`")
    options = parser.parse_args()
    # The runs of a model with different seeds share their compiled programs.
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        commands[options.command](options)


if __name__ == "__main__":
    main()
