"""The command line and the run folder of the examples.

An example writes into the folder given by --output, and marks it as its own by run.json. It refuses
any other folder that is not empty. A second run needs --overwrite, which removes files of the
earlier run that could be mistaken for those of the new one; served versions and other files stay.
Nothing is removed or written before an example calls `begin`, when its options and its data are
checked.
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

from keras_attn import backend, training

MARK = "run.json"
REPLACED = (  # removed by --overwrite; other files stay unless the run writes them
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
    `overwrite`, a second run adds to the folder of the first; `resume` adds --resume.
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
            help="continue from the last checkpoint of the run in --output, with its options",
        )
    return parser


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Run an example from the command line; Ctrl-C ends it with one line."""
    arguments = start(main, parser, sys.argv[1:])
    try:
        main(arguments)
    except KeyboardInterrupt:
        print(f"\nstopped{resume_hint(arguments)}", file=sys.stderr)
        sys.exit(130)


def resume_hint(arguments: argparse.Namespace) -> str:
    """The end of a message: the command that resumes a stopped run, if that is possible."""
    if "resume" not in arguments or not (arguments.output / MARK).exists():
        return ""
    output = shlex.quote(os.fspath(arguments.output))
    return f"; to resume: python {shlex.quote(sys.argv[0])} --resume --output {output}"


def start(
    main: Callable, parser: argparse.ArgumentParser, given: Sequence[str]
) -> argparse.Namespace:
    """The parsed options of a run, whose folder is checked."""
    arguments = parser.parse_args(given)
    if "output" not in arguments:
        return arguments
    folder, example = arguments.output, pathlib.Path(main.__code__.co_filename).name
    first = not getattr(arguments, "index", 0)  # the first of several workers owns the folder
    continues = (
        getattr(arguments, "resume", False) or getattr(arguments, "search", None) is not None
    )
    try:
        earlier = _options_of(folder, example)
        if first and not continues:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(
            f"`--output` must be a folder that can be created, got {folder}: {error.strerror}"
        ) from error
    recorded = [option for option in given if option not in ("--overwrite", "--resume")]
    if continues:
        if earlier is None:
            option = "--resume" if getattr(arguments, "resume", False) else "--search"
            raise SystemExit(
                f"`{option}` needs the folder of an earlier run of {example}, got {folder}, which "
                f"holds none: start a run without {option}"
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
        resume = "--resume continues it, " if "resume" in arguments else ""
        raise SystemExit(
            f"`--output` must be a folder without a run, got {folder}, which holds an earlier "
            f"run of {example}: {resume}--overwrite replaces it (served versions and other "
            "files stay), another --output keeps it"
        )
    arguments.mark = {"example": example, "options": recorded}
    return arguments


def begin(arguments: argparse.Namespace) -> None:
    """Mark the folder as that of this run, and remove the files that --overwrite replaces."""
    if getattr(arguments, "index", 0):
        return
    if getattr(arguments, "overwrite", False):
        for pattern in REPLACED:
            for file in arguments.output.glob(pattern):
                file.unlink()
    unfinished = arguments.output / f"{MARK}.unfinished"
    unfinished.write_text(json.dumps(arguments.mark) + "\n", encoding="utf-8")
    unfinished.replace(arguments.output / MARK)  # atomic, since other workers may be reading it


def restore(
    arguments: argparse.Namespace,
    checkpoint: training.TrainingCheckpoint,
    model: keras.Model,
    batch: Any,
) -> int:
    """Call `begin`, and give the step at which the run starts or continues.

    If the last checkpoint does not fit the run, the run ends before anything is changed.
    """
    if not arguments.resume:
        begin(arguments)
    backend.from_all_processes(model, 0)  # waits until the first worker has removed old files
    try:
        step = checkpoint.restore(model, batch)
    except ValueError as error:
        raise SystemExit(f"--resume is not possible: {error}") from error
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
    """What a resumed run must have in common with the first one, for its TrainingCheckpoint.

    Rows and vocabulary are replaced by hashes; rows are anything that JSON or numpy can hold.
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
                pass  # not a file of the examples
    raise SystemExit(
        f"`--output` must be a new or empty folder, or that of an earlier run of {example}, got "
        f"{folder} ({found}): nothing was changed, choose another --output"
    )


def train(name: str, output: pathlib.Path, steps: int, *more: str) -> None:
    """Run another example for fewer steps, because this one needs the model that it saves."""
    print(
        f"training {name}.py for {steps} steps; its default number gives better results", flush=True
    )
    example = importlib.import_module(name)
    given = ["--steps", str(steps), "--output", os.fspath(output), "--overwrite", *more]
    example.main(start(example.main, example.options(), given))
