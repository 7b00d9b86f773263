"""What examples that start from an encoder share: options, text, reading it, saving.

Without --checkpoint they take the encoder that bert_pretrain.py saved in runs/bert_pretrain; where
there is none, a short pre-training makes a weaker one, once, in runs/bert_short.
"""

import argparse
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _shared
import bert_pretrain
import keras
import tensorflow as tf

from keras_attn import data, models, training, weights

PRETRAINED = pathlib.Path("runs/bert_pretrain")
SHORT = pathlib.Path("runs/bert_short")
SHORT_STEPS = 600
LEARNING_RATE = 5e-4  # for encoders of bert_pretrain.py; larger ones want less
HELD_OUT = 0.2  # of a file of the user's that comes alone
LEAST = 6  # words in a paragraph


def options(text: str, steps: int, name: str, **folder: bool) -> argparse.ArgumentParser:
    """The options that all have; `text` is the example's docstring."""
    parser = _shared.options(text, name, **folder)
    parser.add_argument(
        "--checkpoint",
        type=pathlib.Path,
        help="a directory with a BERT that weights.load reads, or one of bert_pretrain.py",
    )
    parser.add_argument(
        "--data",
        type=pathlib.Path,
        nargs="+",
        metavar="FILE",
        help="to learn from, and a second one to measure on; of one alone a fifth is held out",
    )
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--seed", type=int, default=1)
    return parser


def pages() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """LibreOffice Help, English: paragraphs by page; those that bert_pretrain.py held out apart."""
    documents = data.table_documents(data.read_table(bert_pretrain.CORPUS), "en")
    train, held_out = data.split_documents(list(documents.items()), bert_pretrain.HELD_OUT)
    return dict(train), dict(held_out)


def parts(pages: dict[str, list[str]]) -> dict[str, list[tuple[str, str]]]:
    """Page and paragraph of all that is long enough to tell something, by part of LibreOffice."""
    found: dict[str, list[tuple[str, str]]] = {}
    for page, paragraphs in pages.items():
        long = [(page, text) for text in paragraphs if len(text.split()) >= LEAST]
        found.setdefault(page.split("/")[0], []).extend(long)
    return found


def of_files(
    files: Sequence[pathlib.Path], read: Callable[[pathlib.Path], list]
) -> tuple[list, list]:
    """What a user's one or two files hold, to learn from and held out."""
    if len(files) > 2:
        raise SystemExit(f"`--data` must be one file or two, got {len(files)}")
    first, *second = (read(path) for path in files)
    return (first, *second) if second else data.split_documents(first, HELD_OUT)


def read_cells(path: pathlib.Path, *columns: str) -> list[tuple[str, ...]]:
    """These columns of a .csv or a tab-separated file, row by row."""
    table = data.read_table(path)
    missing = [name for name in columns if name not in table]
    if missing:
        raise SystemExit(
            f"{path} must have the columns {', '.join(columns)}, got {', '.join(table)}"
        )
    return list(zip(*(table[name] for name in columns), strict=True))


def numbers(labels: Sequence[str], names: Sequence[str]) -> list[int]:
    """The labels by their places among the names that the training knows."""
    unknown = sorted(set(labels) - set(names))
    if unknown:
        raise SystemExit(
            f"a label must be one that the training has, {', '.join(names)}, got {unknown[0]!r}"
        )
    place = {name: number for number, name in enumerate(names)}
    return [place[label] for label in labels]


def encoder(checkpoint: pathlib.Path | None) -> tuple[keras.Model, data.BertTokenizer]:
    """The encoder and its tokenizer."""
    if checkpoint is None:
        checkpoint = PRETRAINED if (PRETRAINED / "model.keras").is_file() else SHORT
        if not (checkpoint / "model.keras").is_file():
            print(
                f"no {PRETRAINED}: pre-training for {SHORT_STEPS} steps; bert_pretrain.py is better"
            )
            pretrain(SHORT, SHORT_STEPS)
    return read(checkpoint)


def read(checkpoint: pathlib.Path) -> tuple[keras.Model, data.BertTokenizer]:
    """The encoder and its tokenizer, of bert_pretrain.py or of a format that weights.load reads."""
    if not checkpoint.is_dir():
        raise SystemExit(
            f"there is no model in {checkpoint}: give --checkpoint DIR, or run "
            "examples/bert_pretrain.py"
        )
    if (checkpoint / "model.keras").is_file():
        model = keras.saving.load_model(checkpoint / "model.keras", compile=False)
        return models.bert.encoder_of(model), data.BertTokenizer(checkpoint / "vocab.txt")
    loaded = weights.load(checkpoint)
    if loaded.vocabulary is None:
        raise SystemExit(f"{checkpoint} has no vocab.txt")
    return loaded.model, data.BertTokenizer(loaded.vocabulary, loaded.lowercase is not False)


def pretrain(output: pathlib.Path, steps: int) -> None:
    """bert_pretrain.py in short: no measuring, no checkpoints, no serving."""
    train, _ = pages()
    vocabulary = data.train_vocabulary(
        (paragraph for page in train.values() for paragraph in page), bert_pretrain.VOCABULARY_SIZE
    )
    tokenizer = data.BertTokenizer(vocabulary)
    stream = data.pretraining_dataset(
        data.tokenize_documents(list(train.values()), tokenizer),
        tokenizer,
        batch_size=bert_pretrain.BATCH_SIZE,
        length=bert_pretrain.LENGTH,
    )
    size = models.sizes.resolve(bert_pretrain.SIZE, {}, {"vocabulary_size": len(vocabulary)})
    model = bert_pretrain.build(size)
    rate = bert_pretrain.schedule(bert_pretrain.LEARNING_RATE, steps)
    bert_pretrain.compile_model(model, keras.optimizers.Muon(rate))
    model.fit(stream, steps_per_epoch=steps, shuffle=False)
    output.mkdir(parents=True, exist_ok=True)
    (output / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    model.save(output / "model.keras")


def optimizer(rate: float, steps: int) -> keras.optimizers.Optimizer:
    """BERT's: Adam with decoupled weight decay and clipped gradients, linear warm-up and decay."""
    schedule = training.WarmupLinearDecay(rate, steps // 10, steps)
    adam = keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0)
    adam.exclude_from_weight_decay(var_names=["bias", "norm"])
    return adam


def batches(
    examples: Any, preprocess: Callable, size: int, seed: int | None = None, start: int = 0
) -> tf.data.Dataset:
    """The examples in order, once; with a seed shuffled without end, from batch `start` on."""
    rows = tf.data.Dataset.from_tensor_slices(examples)
    if seed is not None:
        rows = rows.shuffle(len(rows), seed=seed).repeat()
    rows = rows.batch(size, drop_remainder=seed is not None).skip(start)
    return rows.map(preprocess, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def save(
    output: pathlib.Path,
    model: keras.Model,
    preprocessor: keras.layers.Layer,
    postprocessor: keras.layers.Layer,
) -> None:
    """All that `export.publish` takes: model.keras, and the two layers around it as JSON."""
    output.mkdir(parents=True, exist_ok=True)
    model.save(output / "model.keras")
    for name, layer in (("preprocessor", preprocessor), ("postprocessor", postprocessor)):
        config = json.dumps(keras.saving.serialize_keras_object(layer))
        (output / f"{name}.json").write_text(config, encoding="utf-8")


def load(output: pathlib.Path) -> tuple[keras.Model, dict[str, keras.layers.Layer]]:
    """What `save` wrote, as `export.publish(model, folder, **layers)` takes it."""
    layers = {
        name: keras.saving.deserialize_keras_object(
            json.loads((output / f"{name}.json").read_text(encoding="utf-8"))
        )
        for name in ("preprocessor", "postprocessor")
    }
    return keras.saving.load_model(output / "model.keras", compile=False), layers
