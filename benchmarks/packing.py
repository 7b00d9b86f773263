"""What does packing save, compared with padding and with batches of similar length?

    python benchmarks/packing.py

A BERT learns to tell which module of LibreOffice Help a paragraph is from: the lengths are the
corpus's own. Each side fits the same paragraphs, in batches with the same number of positions:
padded to the longest row; in four buckets of similar lengths, each padded to its own length;
packed. The rounds alternate between the sides, since the speed of a machine changes over time. The
medians go to benchmarks/results/packing.jsonl.
"""

import argparse
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from _results import keep, machine

from keras_attn import data, models

ROOT = pathlib.Path(__file__).parents[1]
LENGTH, ROWS = 128, 32
BOUNDARIES = (16, 32, 64)  # of the buckets; the last ends at LENGTH
SIZE = models.sizes.BertSize(4, 256, 4, 1024, vocabulary_size=8000, max_length=LENGTH, dropout=0.1)


def paragraphs(count):
    """Rows of the corpus, `{"token_ids", "segment_ids", "padding_mask"}`, and their modules."""
    table = data.read_table(ROOT / "examples" / "data" / "libreoffice_help.tsv.gz")
    documents = data.table_documents(table, "en")
    rows = [(name.split("/")[0], text) for name, texts in documents.items() for text in texts]
    modules = sorted({module for module, _ in rows})
    chosen = np.random.default_rng(0).permutation(len(rows))[:count]
    vocabulary = data.train_vocabulary((text for _, text in rows), SIZE.vocabulary_size)
    tokenizer = data.BertTokenizer(vocabulary)
    features = data.pack(
        [tokenizer([rows[i][1] for i in chosen])],
        length=LENGTH,
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
        pad_id=tokenizer.pad_id,
    )
    return features, [modules.index(rows[i][0]) for i in chosen]


def padded(rows):
    return rows.batch(ROWS)


def bucketed(rows):
    ends = [*BOUNDARIES, LENGTH]
    return rows.map(cut).bucket_by_sequence_length(
        lambda features, _: tf.size(features["token_ids"]),
        [end + 1 for end in BOUNDARIES],
        [ROWS * LENGTH // end for end in ends],
    )


def cut(features, label):
    """The row without its padding."""
    size = tf.reduce_sum(tf.cast(features["padding_mask"], tf.int32))
    return {name: values[:size] for name, values in features.items()}, label


def packed(rows):
    return data.pack_rows(rows.batch(1024), length=LENGTH, batch_size=ROWS)


def main():
    """Train each side in turn, print and store the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paragraphs", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    features, labels = paragraphs(options.paragraphs)
    rows = tf.data.Dataset.from_tensor_slices((features, labels))
    sizes = features["padding_mask"].numpy().sum(1)

    sides = {}
    for side in (padded, bucketed, packed):
        model = models.bert_tasks.classifier(models.bert.encoder(SIZE), max(labels) + 1)
        model = models.packing.packed(model) if side is packed else model
        model.compile(
            "adam",
            keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, reduction="mean_with_sample_weight"
            ),
        )
        dataset = side(rows)
        places = sum(int(tf.size(batch[0]["token_ids"])) for batch in dataset)
        model.fit(dataset.take(8), verbose=0)  # compiles
        sides[side.__name__] = (model, dataset, sizes.sum() / places)
    seconds = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, (model, dataset, _) in sides.items():
            start = time.perf_counter()
            model.fit(dataset, verbose=0)
            seconds[name].append(time.perf_counter() - start)

    speed = {name: sizes.sum() / statistics.median(times) for name, times in seconds.items()}
    record = {
        "paragraphs": options.paragraphs,
        "mean_length": round(float(sizes.mean()), 1),
        "row": LENGTH,
        "rounds": options.rounds,
        "full": {name: round(float(full), 3) for name, (_, _, full) in sides.items()},
        "useful_tokens_per_second": {name: round(float(value)) for name, value in speed.items()},
        "times_padded": {
            name: round(float(value / speed["padded"]), 2) for name, value in speed.items()
        },
        **machine(),
    }
    keep(record, ROOT / "benchmarks" / "results" / "packing.jsonl")


if __name__ == "__main__":
    main()
