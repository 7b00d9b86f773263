"""What the examples share: the command line, the folder of a run, and Ctrl-C.

An example writes into the folder that --output names, and marks it as its own in run.json. It
refuses any other folder that is not empty. A second run asks for --overwrite, which removes what
the earlier run made and would be mistaken for the new one's; served versions and files of others
stay.
"""

import argparse
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

MARK = "run.json"
REPLACED = (  # by a run that overwrites; everything else stays, or is written over by its name
    "model.keras",
    "checkpoints/step-" + 10 * "[0-9]" + ".npz",
    "logs/*/events.out.tfevents.*",
)


def options(
    text: str, output: str | None, overwrite: bool = True, resume: bool = False
) -> argparse.ArgumentParser:
    """The command line that all examples have.

    Args:
        text: the example's docstring.
        output: the default folder of a run inside runs/, None for an example that only prints.
        overwrite: whether a second run replaces the first; otherwise it adds to its folder.
        resume: whether a stopped run can go on.
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
    group = parser.add_mutually_exclusive_group()
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
        line = "stopped"
        if "resume" in arguments:
            output = shlex.quote(os.fspath(arguments.output))
            line += f"; to go on: python {shlex.quote(sys.argv[0])} --resume --output {output}"
        print(f"\n{line}", file=sys.stderr)
        sys.exit(130)


def start(
    main: Callable, parser: argparse.ArgumentParser, given: Sequence[str]
) -> argparse.Namespace:
    """The parsed options of a run whose folder is ready for it.

    Raises:
        SystemExit: the folder is not the example's own; it holds an earlier run and nothing says
            what to do with it; there is no run to resume.
    """
    arguments = parser.parse_args(given)
    if "output" not in arguments:
        return arguments
    folder, example = arguments.output, pathlib.Path(main.__code__.co_filename).name
    earlier = _options_of(folder, example)
    recorded = [option for option in given if option not in ("--overwrite", "--resume")]
    if getattr(arguments, "resume", False):
        if earlier is None:
            raise SystemExit(
                f"`--resume` needs the folder of an earlier run of {example}, got {folder}, which "
                "holds none: leave --resume out to begin one"
            )
        recorded = [*earlier, *recorded]
        arguments = parser.parse_args([*earlier, *given])  # what is given now counts
        arguments.output = folder  # which may have moved
    elif not getattr(arguments, "overwrite", True) and _contents(folder) > {MARK}:
        resume = "--resume goes on with it, " if "resume" in arguments else ""
        raise SystemExit(
            f"`--output` must be a folder without a run, got {folder}, which holds an earlier run "
            f"of {example}: {resume}--overwrite replaces it (served versions and files of others "
            "stay), another --output leaves it alone"
        )
    elif earlier is not None and "overwrite" in arguments:
        for pattern in REPLACED:
            for file in folder.glob(pattern):
                file.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(json.dumps({"example": example, "options": recorded}) + "\n")
    return arguments


def _contents(folder: pathlib.Path) -> set[str]:
    return set(os.listdir(folder)) if folder.exists() else set()


def _options_of(folder: pathlib.Path, example: str) -> list[str] | None:
    """The options of the earlier run in a folder, None where the folder is new or empty."""
    found = "a file"
    if folder.is_dir() or not folder.exists():
        names = sorted(_contents(folder))
        if not names:
            return None
        found = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
        if MARK in names:
            try:
                record = json.loads((folder / MARK).read_text(encoding="utf-8"))
                if record["example"] == example:
                    return record["options"]
                found = f"a run of {record['example']}"
            except (ValueError, LookupError, TypeError):
                pass  # a file of somebody else
    raise SystemExit(
        f"`--output` must be a new or empty folder, or one of an earlier run of {example}, got "
        f"{folder} ({found}): nothing was changed, give another --output"
    )
