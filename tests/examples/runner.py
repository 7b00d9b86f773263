"""Runs an example in a child process, as a user does."""

import os
import pathlib
import runpy
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(name, *arguments, cwd=ROOT):
    """The exit status and the output."""
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


def run_here(monkeypatch, name, *arguments, cwd=ROOT):
    """Run an example in this process, which is seconds faster."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.chdir(cwd)
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")


def refusal(monkeypatch, name, *arguments, cwd):
    """The error message of an example that must fail."""
    with pytest.raises((SystemExit, ValueError)) as ended:
        run_here(monkeypatch, name, *arguments, cwd=cwd)
    return str(ended.value)


def printed_by(name, *arguments, cwd=ROOT):
    """The output of an example, which must succeed."""
    status, printed = run(name, *arguments, cwd=cwd)
    assert status == 0, printed
    return printed
