"""What the examples share: command line and run folders, the corpus, fine-tuning.

An example writes into the folder that --output names, and marks it as its own in run.json. It
refuses any other folder that is not empty. A second run asks for --overwrite, which removes what
the earlier run made and would be mistaken for the new one's; served versions and files of others
stay. Nothing is removed or written before `begin`, which an example calls when it has accepted its
options and its data.
"""

import argparse
import hashlib
import importlib
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

from keras_attn import backend, data, models, training, weights

CORPUS = pathlib.Path(__file__).parent / "data" / "libreoffice_help.tsv.gz"
HELD_OUT = 0.05  # of the corpus, the same documents in every example that does not say otherwise
HELD_OUT_ROWS = 0.2  # of a single file of the user's
WORDS = 6  # the minimum of a paragraph that is used
PRETRAINED = pathlib.Path("runs/bert_pretrain")
SHORT = pathlib.Path("runs/bert_short")  # the substitute
SHORT_STEPS = 600
LEARNING_RATE = 5e-4  # for encoders of bert_pretrain.py; larger ones need smaller rates
WARMUP = 0.1  # fraction of the steps

MARK = "run.json"
REPLACED = (  # by a run that overwrites; everything else stays, or is written over by its name
    "model.keras",
    "checkpoints/step-" + 10 * "[0-9]" + ".npz",
    "checkpoints/step-" + 10 * "[0-9]" + ".part-*-of-*",
    "logs/*/events.out.tfevents.*",
)


def options(
    text: str, output: str | None, overwrite: bool = True, resume: bool = False
) -> argparse.ArgumentParser:
    """The command line that all examples have; `text` is the example's docstring.

    `output` is the default folder inside runs/, None for an example that only prints. Without
    `overwrite`, a second run adds to the folder of the first; with `resume`, a stopped one goes on.
    """
    parser = argparse.ArgumentParser(description=text.split("\n")[0], allow_abbrev=False)
    if output is None:
        return parser
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs") / output,
        help="the folder of the run, %(default)s by default",
    )
    # argparse of Python 3.11 cannot print the help of an empty group.
    group = parser.add_mutually_exclusive_group() if overwrite or resume else parser
    if overwrite:
        group.add_argument(
            "--overwrite",
            action="store_true",
            help="replace the earlier run in --output; served versions and other files stay",
        )
    if resume:
        group.add_argument(
            "--resume",
            action="store_true",
            help="go on from the last checkpoint of the run in --output, with its options",
        )
    return parser


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Run an example from the command line; Ctrl-C ends it with one line."""
    arguments = start(main, parser, sys.argv[1:])
    try:
        main(arguments)
    except KeyboardInterrupt:
        print(f"\nstopped{to_go_on(arguments)}", file=sys.stderr)
        sys.exit(130)


def to_go_on(arguments: argparse.Namespace) -> str:
    """The end of a line: the command that resumes a stopped run, if it can be resumed."""
    if "resume" not in arguments or not (arguments.output / MARK).exists():
        return ""
    output = shlex.quote(os.fspath(arguments.output))
    return f"; to go on: python {shlex.quote(sys.argv[0])} --resume --output {output}"


def start(
    main: Callable, parser: argparse.ArgumentParser, given: Sequence[str]
) -> argparse.Namespace:
    """The parsed options of a run, whose folder is checked."""
    arguments = parser.parse_args(given)
    if "output" not in arguments:
        return arguments
    folder, example = arguments.output, pathlib.Path(main.__code__.co_filename).name
    first = not getattr(arguments, "index", 0)  # the first of several workers owns the folder
    goes_on = getattr(arguments, "resume", False) or getattr(arguments, "search", None) is not None
    try:
        earlier = _options_of(folder, example)
        if first and not goes_on:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(
            f"`--output` must be a folder that can be made, got {folder}: {error.strerror}"
        ) from error
    recorded = [option for option in given if option not in ("--overwrite", "--resume")]
    if goes_on:
        if earlier is None:
            option = "--resume" if getattr(arguments, "resume", False) else "--search"
            raise SystemExit(
                f"`{option}` needs the folder of an earlier run of {example}, got {folder}, which "
                f"holds none: leave {option} out to begin one"
            )
        recorded = [*earlier, *recorded]
        arguments = parser.parse_args([*earlier, *given])  # later options override earlier ones
        arguments.output = folder  # the folder may have moved
    elif (
        first
        and earlier is not None
        and not getattr(arguments, "overwrite", True)
        and os.listdir(folder) != [MARK]
    ):
        resume = "--resume goes on with it, " if "resume" in arguments else ""
        raise SystemExit(
            f"`--output` must be a folder without a run, got {folder}, which holds an earlier "
            f"run of {example}: {resume}--overwrite replaces it (served versions and files of "
            "others stay), another --output leaves it alone"
        )
    arguments.mark = {"example": example, "options": recorded}
    return arguments


def begin(arguments: argparse.Namespace) -> None:
    """Make the folder that of this run: what --overwrite replaces goes, run.json comes."""
    if getattr(arguments, "index", 0):
        return
    if getattr(arguments, "overwrite", False):
        for pattern in REPLACED:
            for file in arguments.output.glob(pattern):
                file.unlink()
    unfinished = arguments.output / f"{MARK}.unfinished"
    unfinished.write_text(json.dumps(arguments.mark) + "\n", encoding="utf-8")
    unfinished.replace(arguments.output / MARK)  # at once: other workers may be reading it


def restore(
    arguments: argparse.Namespace,
    checkpoint: training.TrainingCheckpoint,
    model: keras.Model,
    batch: Any,
) -> int:
    """`begin`, and the step where the run goes on; what the last checkpoint refuses ends it."""
    if not arguments.resume:
        begin(arguments)
    backend.from_all_processes(model, 0)  # no worker looks before the first has removed old files
    try:
        step = checkpoint.restore(model, batch)
    except ValueError as error:
        raise SystemExit(f"--resume cannot go on: {error}") from error
    if arguments.resume:
        begin(arguments)
    return step


def identity(
    arguments: argparse.Namespace,
    rows: Any,
    vocabulary: Sequence[str],
    batch_size: int,
    steps_per_epoch: int,
    **more: Any,
) -> dict:
    """What a resumed run must have in common with the first, for its TrainingCheckpoint.

    Digests stand for rows and vocabulary; rows are anything that JSON or numpy can hold.
    """

    def digest(content: Any) -> str:
        text = json.dumps(content, default=lambda array: array.tolist())
        return hashlib.sha256(text.encode()).hexdigest()

    return {
        "rows": digest(rows),
        "vocabulary": digest(vocabulary),
        "batch_size": batch_size,
        "seed": arguments.seed,
        "steps_per_epoch": steps_per_epoch,
        **more,
    }


def _options_of(folder: pathlib.Path, example: str) -> list[str] | None:
    """The options of the earlier run in a folder; None if the folder is new or empty."""
    found = "a file"
    if folder.is_dir() or not folder.exists():
        names = sorted(os.listdir(folder)) if folder.exists() else []
        if not names:
            return None
        found = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
        if MARK in names:
            try:
                record = json.loads((folder / MARK).read_text(encoding="utf-8"))
                by, given = record["example"], record["options"]
                if isinstance(given, list) and all(isinstance(option, str) for option in given):
                    if by == example:
                        return given
                    found = f"a run of {by}"
            except (OSError, ValueError, LookupError, TypeError):
                pass  # not our file
    raise SystemExit(
        f"`--output` must be a new or empty folder, or one of an earlier run of {example}, got "
        f"{folder} ({found}): nothing was changed, give another --output"
    )


def train(name: str, output: pathlib.Path, steps: int, *more: str) -> None:
    """Run another example for fewer steps, because this one needs the model it saves."""
    print(f"training {name}.py for {steps} steps; its own default run does better", flush=True)
    example = importlib.import_module(name)
    given = ["--steps", str(steps), "--output", os.fspath(output), "--overwrite", *more]
    example.main(start(example.main, example.options(), given))


# The corpus


def pages() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """LibreOffice Help in English: the paragraphs of each page, for training and held out."""
    documents = data.table_documents(data.read_table(CORPUS), "en")
    train, held_out = data.split_documents(list(documents.items()), HELD_OUT)
    return dict(train), dict(held_out)


def by_module(pages: dict[str, list[str]]) -> dict[str, list[tuple[str, str]]]:
    """Page and paragraph of all that is long enough, by module (Writer, Calc, Basic, ...)."""
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
    """The same data set with its number of batches, which bucketing leaves unknown."""
    return dataset.apply(tf.data.experimental.assert_cardinality(sum(1 for _ in dataset)))


def endless(rows: tf.data.Dataset, seed: int) -> tf.data.Dataset:
    """The rows again and again, each time in another order, which depends on seeds alone.

    `rows.shuffle(...).repeat()` is in another order whenever it is iterated anew, which `fit` of a
    new run does once more than `fit` of a resumed one. Within `flat_map` each iteration has its
    own shuffle, which begins with the seed.
    """
    once = tf.data.Dataset.range(1)
    return once.flat_map(lambda _: rows.shuffle(len(rows), seed=seed).repeat())


# Fine-tuning


def task_options(text: str, steps: int, output: str, **more: bool) -> argparse.ArgumentParser:
    """The command line of an example that fine-tunes an encoder; arguments as in `options`."""
    parser = options(text, output, **more)
    parser.add_argument(
        "--checkpoint",
        type=pathlib.Path,
        help="a directory with a BERT that weights.load reads, or a run of bert_pretrain.py; "
        f"{PRETRAINED} by default, or else a short pre-training",
    )
    parser.add_argument(
        "--data",
        type=pathlib.Path,
        nargs="+",
        metavar="FILE",
        help="a file to learn from and one to measure on; of one alone a fifth is held out",
    )
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--seed", type=int, default=1)
    return parser


def read_files(
    files: Sequence[pathlib.Path], read: Callable[[pathlib.Path], data.Examples], **options: Any
) -> tuple[list, list]:
    """Rows of the user's files, for training and held out, checked by `data.read_examples`."""
    try:
        sides = data.read_examples(files, read, held_out=HELD_OUT_ROWS, **options)
    except (OSError, ValueError) as error:
        raise SystemExit(f"--data: {error}") from error
    for side in sides:
        if side.skipped:
            print(side.report())
    return tuple(side.rows for side in sides)


def encoder(checkpoint: pathlib.Path | None) -> tuple[keras.Model, data.BertTokenizer]:
    """The encoder to fine-tune and its tokenizer; a short pre-training makes one if need be."""
    if checkpoint is None:
        checkpoint = PRETRAINED if (PRETRAINED / "model.keras").is_file() else SHORT
        if not (checkpoint / "model.keras").is_file():
            train("bert_pretrain", SHORT, SHORT_STEPS)
    return read_encoder(checkpoint)


def read_encoder(checkpoint: pathlib.Path) -> tuple[keras.Model, data.BertTokenizer]:
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


def numbers(labels: Sequence[str], names: Sequence[str]) -> list[int]:
    """The index of each label among the names."""
    place = {name: number for number, name in enumerate(names)}
    return [place[label] for label in labels]


def batches(
    examples: Any, preprocess: Callable, size: int, seed: int | None = None, start: int = 0
) -> tf.data.Dataset:
    """The examples once, in order; with a seed, shuffled and repeated, from batch `start` on.

    It ends without a prefetch: TensorFlow may complete a cache behind one with a single element.
    """
    rows = tf.data.Dataset.from_tensor_slices(examples)
    if seed is not None:
        rows = endless(rows, seed)
    rows = rows.batch(size, drop_remainder=seed is not None).skip(start)
    return rows.map(preprocess, tf.data.AUTOTUNE)


def optimizer(rate: float, steps: int) -> keras.optimizers.Optimizer:
    """BERT's: Adam with decoupled weight decay and clipped gradients, linear warm-up and decay."""
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
    """Save what `export.publish` takes: model.keras, and the two layers around it as JSON."""
    model.save(output / "model.keras")
    for name, layer in (("preprocessor", preprocessor), ("postprocessor", postprocessor)):
        config = json.dumps(keras.saving.serialize_keras_object(layer))
        (output / f"{name}.json").write_text(config, encoding="utf-8")
    print(f"saved in {output}, for export.publish")


def load(output: pathlib.Path) -> tuple[keras.Model, dict[str, keras.layers.Layer]]:
    """What `save` wrote, as `export.publish(model, folder, **layers)` takes it."""
    layers = {
        name: keras.saving.deserialize_keras_object(
            json.loads((output / f"{name}.json").read_text(encoding="utf-8"))
        )
        for name in ("preprocessor", "postprocessor")
    }
    return keras.saving.load_model(output / "model.keras", compile=False), layers
