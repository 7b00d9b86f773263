"""The sides of a benchmark, each in its own process, which answers each line with a line."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def serve(make: Callable[[], Callable[[str], Any]]) -> None:
    """Create the function that answers, then answer each line of the input, in a side's process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries must not print between the answers
    answer = make()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(line.strip())), file=answers, flush=True)


def start(side: str, script: str, *arguments: str, **environment: str) -> subprocess.Popen | None:
    """The side's process, once ready; None, after printing the reason, if it cannot start."""
    with tempfile.TemporaryFile("w+") as said:  # a full pipe that nobody reads would block
        worker = subprocess.Popen(
            [sys.executable, script, "--worker", side, *arguments],
            env={
                **os.environ,
                "KERAS_BACKEND": "tensorflow",
                "PYTHONPATH": str(ROOT),
                **environment,
            },
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        if worker.stdout.readline() == "ready\n":
            return worker
        worker.wait()
        said.seek(0)
        reason = said.read().strip().splitlines()[-1:]
    print(f"skipped {side}: {reason[0] if reason else 'it did not start'}", flush=True)
    return None


def ask(worker: subprocess.Popen, line: str) -> Any:
    """The side's answer."""
    worker.stdin.write(f"{line}\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


def stop(workers: dict[str, subprocess.Popen]) -> None:
    """End the processes."""
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()


def medians(seconds: Iterator[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median and minimum milliseconds of each side over the rounds, and the ratio to ours."""
    found: dict[str, list[float]] = {}
    for of_sides in seconds:
        for side, number in of_sides.items():
            found.setdefault(side, []).append(1e3 * number)
    median = {side: statistics.median(numbers) for side, numbers in found.items()}
    return {
        "milliseconds": {side: round(number, 1) for side, number in median.items()},
        "least": {side: round(min(numbers), 1) for side, numbers in found.items()},
        "over_ours": {side: round(m / median["ours"], 3) for side, m in median.items()},
    }
