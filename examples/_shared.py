"""The corpus and the fine-tuning that several examples share."""

import argparse
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _runs
import keras
import tensorflow as tf

from keras_attn import data, models, training, weights

CORPUS = pathlib.Path(__file__).parent / "data" / "libreoffice_help.tsv.gz"
HELD_OUT = 0.05  # fraction of the corpus; the same documents in most examples
HELD_OUT_ROWS = 0.2  # fraction of a single file of the user
WORDS = 6  # shorter paragraphs are not used
PRETRAINED = pathlib.Path("runs/bert_pretrain")
SHORT = pathlib.Path("runs/bert_short")  # used if PRETRAINED does not exist
SHORT_STEPS = 600
LEARNING_RATE = 5e-4  # for encoders of bert_pretrain.py; larger ones need smaller rates
WARMUP = 0.1  # fraction of the steps


def pages() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """LibreOffice Help in English: the paragraphs of each page, for training and held out."""
    documents = data.table_documents(data.read_table(CORPUS), "en")
    train, held_out = data.split_documents(list(documents.items()), HELD_OUT)
    return dict(train), dict(held_out)


def by_module(pages: dict[str, list[str]]) -> dict[str, list[tuple[str, str]]]:
    """The page and the text of each long enough paragraph, by module (Writer, Calc, ...)."""
    found: dict[str, list[tuple[str, str]]] = {}
    for page, paragraphs in pages.items():
        long = [(page, text) for text in paragraphs if len(text.split()) >= WORDS]
        found.setdefault(page.split("/")[0], []).extend(long)
    return found


def read_pairs(table: pathlib.Path, source: str, target: str) -> tuple[list, list]:
    """Pairs of paragraphs for training, and those of held-out documents."""
    documents = data.table_documents(data.read_table(table), source, target)
    train, held_out = data.split_documents(list(documents.values()), HELD_OUT)
    return [pair for d in train for pair in d], [pair for d in held_out for pair in d]


def write_vocabulary(folder: pathlib.Path, vocabulary: Sequence[str]) -> None:
    """vocab.txt, in BERT's format."""
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")


def schedule(peak: float, steps: int) -> training.WarmupLinearDecay:
    """The learning rate: linear warm-up, linear decay."""
    return training.WarmupLinearDecay(peak, int(WARMUP * steps), steps)


def counted(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same data set with its number of batches, which is unknown after bucketing."""
    return dataset.apply(tf.data.experimental.assert_cardinality(sum(1 for _ in dataset)))


def endless(rows: tf.data.Dataset, seed: int) -> tf.data.Dataset:
    """The rows repeated without end, each time in another order that depends only on the seed.

    `rows.shuffle(...).repeat()` has another order each time it is iterated, and `fit` of a new run
    iterates it once more than `fit` of a resumed run. Inside `flat_map` every iteration has its own
    shuffle, which starts with the seed.
    """
    once = tf.data.Dataset.range(1)
    return once.flat_map(lambda _: rows.shuffle(len(rows), seed=seed).repeat())


# Fine-tuning


def task_options(text: str, steps: int, output: str, **more: bool) -> argparse.ArgumentParser:
    """The command line of an example that fine-tunes an encoder; arguments as in `options`."""
    parser = _runs.options(text, output, **more)
    parser.add_argument(
        "--checkpoint",
        type=pathlib.Path,
        help="a directory with a BERT that weights.load reads, or a run of bert_pretrain.py; "
        f"defaults to {PRETRAINED}; if that does not exist, a short pre-training is run",
    )
    parser.add_argument(
        "--data",
        type=pathlib.Path,
        nargs="+",
        metavar="FILE",
        help="a training file and a held-out file; of a single file a fifth is held out",
    )
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--seed", type=int, default=1)
    return parser


def read_files(
    files: Sequence[pathlib.Path], read: Callable[[pathlib.Path], data.Examples], **options: Any
) -> tuple[list, list]:
    """The training rows and the held-out rows of the user's files."""
    try:
        sides = data.read_examples(files, read, held_out=HELD_OUT_ROWS, **options)
    except (OSError, ValueError) as error:
        raise SystemExit(f"--data: {error}") from error
    for side in sides:
        if side.skipped:
            print(side.report())
    return tuple(side.rows for side in sides)


def encoder(checkpoint: pathlib.Path | None) -> tuple[keras.Model, data.BertTokenizer]:
    """The encoder to fine-tune and its tokenizer; without a checkpoint, a short run makes them."""
    if checkpoint is None:
        checkpoint = PRETRAINED if (PRETRAINED / "model.keras").is_file() else SHORT
        if not (checkpoint / "model.keras").is_file():
            _runs.train("bert_pretrain", SHORT, SHORT_STEPS)
    return read_encoder(checkpoint)


def read_encoder(checkpoint: pathlib.Path) -> tuple[keras.Model, data.BertTokenizer]:
    """The encoder and its tokenizer, from a run of bert_pretrain.py or by weights.load."""
    if not checkpoint.is_dir():
        raise SystemExit(
            f"`--checkpoint` must be a directory with a model, got {checkpoint}: run "
            "examples/bert_pretrain.py, or choose another one"
        )
    if (checkpoint / "model.keras").is_file():
        model = keras.saving.load_model(checkpoint / "model.keras", compile=False)
        return models.bert.encoder_of(model), data.BertTokenizer(checkpoint / "vocab.txt")
    loaded = weights.load(checkpoint)
    if loaded.vocabulary is None:
        raise SystemExit(f"{checkpoint} has no vocab.txt")
    return loaded.model, data.BertTokenizer(loaded.vocabulary, loaded.lowercase is not False)


def numbers(labels: Sequence[str], names: Sequence[str]) -> list[int]:
    """The index of each label among the names."""
    place = {name: number for number, name in enumerate(names)}
    return [place[label] for label in labels]


def batches(
    examples: Any, preprocess: Callable, size: int, seed: int | None = None, start: int = 0
) -> tf.data.Dataset:
    """The examples once, in order; with a seed, shuffled and repeated, from batch `start` on.

    There is no prefetch at the end: TensorFlow could end a `cache` after it with a single element.
    """
    rows = tf.data.Dataset.from_tensor_slices(examples)
    if seed is not None:
        rows = endless(rows, seed)
    rows = rows.batch(size, drop_remainder=seed is not None).skip(start)
    return rows.map(preprocess, tf.data.AUTOTUNE)


def optimizer(rate: float, steps: int) -> keras.optimizers.Optimizer:
    """BERT's optimizer: AdamW with clipped gradients, linear warm-up and linear decay."""
    adam = keras.optimizers.AdamW(
        training.WarmupLinearDecay(rate, steps // 10, steps), weight_decay=0.01, global_clipnorm=1.0
    )
    adam.exclude_from_weight_decay(var_names=["bias", "norm"])
    return adam


def save(
    output: pathlib.Path,
    model: keras.Model,
    preprocessor: keras.layers.Layer,
    postprocessor: keras.layers.Layer,
) -> None:
    """Save the arguments of `export.publish`: model.keras, and its two layers as JSON."""
    model.save(output / "model.keras")
    for name, layer in (("preprocessor", preprocessor), ("postprocessor", postprocessor)):
        config = json.dumps(keras.saving.serialize_keras_object(layer))
        (output / f"{name}.json").write_text(config, encoding="utf-8")
    print(f"saved in {output}, for export.publish")


def load(output: pathlib.Path) -> tuple[keras.Model, dict[str, keras.layers.Layer]]:
    """What `save` wrote, as arguments of `export.publish(model, folder, **layers)`."""
    layers = {
        name: keras.saving.deserialize_keras_object(
            json.loads((output / f"{name}.json").read_text(encoding="utf-8"))
        )
        for name in ("preprocessor", "postprocessor")
    }
    return keras.saving.load_model(output / "model.keras", compile=False), layers
