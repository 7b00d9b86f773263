"""Runs an example as a user does, in a process of its own."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def run(name, *arguments, cwd=ROOT):
    """The exit status, and all that it printed."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{name}.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        cwd=cwd,
        check=False,
    )
    return done.returncode, done.stdout


def printed_by(name, *arguments, cwd=ROOT):
    """What it printed; it must have reached its end."""
    status, printed = run(name, *arguments, cwd=cwd)
    assert status == 0, printed
    return printed
