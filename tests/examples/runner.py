"""Runs an example as a user does, in a process of its own."""

import os
import pathlib
import runpy
import subprocess
import sys

import pytest

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


def refusal(monkeypatch, name, *arguments, cwd):
    """What the example ends with that will not run, in this process, which is quicker."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.chdir(cwd)
    with pytest.raises((SystemExit, ValueError)) as ended:
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    return str(ended.value)


def printed_by(name, *arguments, cwd=ROOT):
    """What it printed; it must have reached its end."""
    status, printed = run(name, *arguments, cwd=cwd)
    assert status == 0, printed
    return printed
