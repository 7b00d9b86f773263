"""Train a small GPT and generate text with it, token by token with a cache.

    python examples/generate_text.py                        # English
    python examples/generate_text.py --language de          # or zh
    python examples/generate_text.py --text mine.txt        # paragraphs, blank line = new document
    python examples/generate_text.py --size gpt_small --steps 20000
    python examples/generate_text.py --resume               # continue an interrupted run, or write
    python examples/generate_text.py --resume --min-p 0.1 --no-repeat-ngram-size 3  # other text

The default corpus is LibreOffice Help (examples/data). Checkpoints, vocabulary and model are
written to --output.
"""

import argparse
import functools
import math
import os
import pathlib
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _runs
import _shared
import keras
import numpy as np
import tensorflow as tf

from keras_attn import data, decoding, layers, models, training

VOCABULARY_SIZE = 8000
LENGTH = 128  # tokens in a row
BATCH_SIZE = 16
STEPS = 600
EPOCHS = 5  # each of a fifth of the steps, then an evaluation on the held-out documents
LEARNING_RATE = 6e-3
DROPOUT = 0.1
NEW_TOKENS = 48
EXPECTED = 33  # perplexity a token of the default run; one run gave 31.6


def rows_of(documents: list, tokenizer: data.BertTokenizer) -> np.ndarray:
    """Rows of LENGTH + 1 ids from the joined documents, with [SEP] after each paragraph."""
    ids = data.tokenize_documents(documents, tokenizer).merge_dims(0, 1)  # [paragraphs, (tokens)]
    ends = tf.fill([ids.nrows(), 1], tokenizer.sep_id)
    stream = tf.concat([ids, ends], axis=1).flat_values.numpy()
    return stream[: len(stream) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)


def batches(rows: np.ndarray, seed: int | None, start: int = 0) -> tf.data.Dataset:
    """Batches of inputs and next tokens; with a seed, an endless stream in its own order.

    There is no prefetch at the end: it must not come before a cache.
    """
    stream = tf.data.Dataset.from_tensor_slices(rows)
    if seed is not None:
        stream = _shared.endless(stream, seed)
    stream = stream.batch(BATCH_SIZE, drop_remainder=seed is not None).skip(start)

    def split(row: tf.Tensor) -> tuple[dict, tf.Tensor]:
        ids = row[:, :-1]
        return {"token_ids": ids, "padding_mask": tf.ones_like(ids, tf.bool)}, row[:, 1:]

    return stream.map(split)


def build(size: str, vocabulary_size: int) -> keras.Model:
    """A GPT with rotary positions."""
    return models.gpt.decoder(
        size,
        position=layers.RotaryEmbedding(),
        vocabulary_size=vocabulary_size,
        dropout=DROPOUT,
    )


def compile_model(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    """Compile with the loss of a language model, and its perplexity."""
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[training.Perplexity(from_logits=True)],
        jit_compile=False,
    )


def unigram_perplexity(train: np.ndarray, held_out: np.ndarray, vocabulary_size: int) -> float:
    """The perplexity of a unigram model."""
    counts = np.bincount(train.reshape(-1), minlength=vocabulary_size) + 1.0
    return float(np.exp(-np.log(counts / counts.sum())[held_out[:, 1:]].mean()))


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = _runs.options(__doc__, "generate_text", resume=True)
    parser.add_argument("--language", default="en", help="a column of the corpus")
    parser.add_argument("--text", type=pathlib.Path, help="a text file instead of the corpus")
    parser.add_argument("--size", default="gpt_mini")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=1)
    writing = parser.add_argument_group("writing", "the options of keras_attn.decoding.sample")
    writing.add_argument("--temperature", type=above_zero(), default=0.8)
    writing.add_argument("--top-p", type=above_zero(1), default=0.95)
    writing.add_argument("--min-p", type=above_zero(1))
    writing.add_argument("--repetition-penalty", type=above_zero())
    writing.add_argument("--no-repeat-ngram-size", type=int, choices=range(1, 11), metavar="N")
    return parser


def above_zero(most: float = math.inf) -> Callable[[str], float]:
    """What reads an option's number, so that a wrong one is reported before the training."""

    def number(text: str) -> float:
        if not 0 < float(text) <= most:
            limit = "" if most == math.inf else f" and at most {most}"
            raise argparse.ArgumentTypeError(f"must be above 0{limit}, got {text}")
        return float(text)

    return number


def main(arguments: argparse.Namespace) -> None:
    output, steps_per_epoch = arguments.output, max(1, arguments.steps // EPOCHS)
    began = time.time()
    keras.utils.set_random_seed(arguments.seed)

    # Text
    if arguments.text:
        documents = data.read_documents(arguments.text)
    else:
        table = data.read_table(_shared.CORPUS)
        documents = list(data.table_documents(table, arguments.language).values())
    train_documents, held_out_documents = data.split_documents(documents, _shared.HELD_OUT)
    vocabulary = data.train_vocabulary(
        (paragraph for document in train_documents for paragraph in document),
        VOCABULARY_SIZE,
        lowercase=False,
    )
    tokenizer = data.BertTokenizer(vocabulary, lowercase=False)
    train, held_out = rows_of(train_documents, tokenizer), rows_of(held_out_documents, tokenizer)
    print(f"{len(train)} rows of {LENGTH} tokens for training, {len(held_out)} held out")
    validation = batches(held_out, seed=None).cache()

    # Model
    model = build(arguments.size, len(vocabulary))
    compile_model(
        model, keras.optimizers.Muon(_shared.schedule(LEARNING_RATE, EPOCHS * steps_per_epoch))
    )
    print(f"{model.count_params():,} weights, {len(vocabulary)} tokens")

    # Training
    identity = _runs.identity(arguments, train, vocabulary, BATCH_SIZE, steps_per_epoch)
    checkpoint = training.TrainingCheckpoint(output / "checkpoints", every=200, data=identity)
    step = _runs.restore(arguments, checkpoint, model, validation)
    _shared.write_vocabulary(output, vocabulary)
    model.fit(
        batches(train, seed=arguments.seed, start=step).prefetch(tf.data.AUTOTUNE),
        epochs=EPOCHS,
        initial_epoch=step // steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        validation_data=validation,
        callbacks=[checkpoint],
        shuffle=False,  # the stream is shuffled
    )
    model.save(output / "model.keras")

    # Generation: prompts of different lengths in one batch, a seed for each row
    starts = [document[0] for document in held_out_documents[:6]]
    prompts = [ids[: 3 + row] for row, ids in enumerate(tokenizer(starts).to_list())]
    lengths = np.array([len(prompt) for prompt in prompts], "int32")
    padded = np.array([prompt + [0] * (max(lengths) - len(prompt)) for prompt in prompts], "int32")
    search = functools.partial(
        decoding.sample,
        max_new_tokens=NEW_TOKENS,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        no_repeat_ngram_size=arguments.no_repeat_ngram_size,
        stop_token_ids=(tokenizer.sep_id,),
    )
    generate = models.steps.generator(model, search, length=padded.shape[1] + NEW_TOKENS)
    seeds = np.arange(len(prompts), dtype="int32") + arguments.seed
    rows = decoding.compiled(generate, model.variables)(padded, lengths, seeds=seeds)
    written = tokenizer.detokenize(rows["token_ids"]).numpy()
    begun = tokenizer.detokenize(tf.ragged.constant(prompts, dtype=tf.int32)).numpy()
    for prompt, text in zip(begun, written, strict=True):
        print(f"\n  [{prompt.decode()}]{text.decode().removeprefix(prompt.decode())}")

    found = model.evaluate(validation, verbose=0, return_dict=True)["perplexity"]
    without = unigram_perplexity(train, held_out, len(vocabulary))
    print(f"\n{arguments.steps} steps, {time.time() - began:.0f} s in total")
    print(
        f"perplexity {found:.1f} a token on held-out documents, a unigram model "
        f"{without:.1f} (the default run should reach {EXPECTED:.0f})"
    )


if __name__ == "__main__":
    _runs.run(main, options())
