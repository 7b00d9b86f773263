"""Several processes on one machine train as one process, and resume after one was killed."""

import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.examples.runner import ROOT, printed_by, refusal, run

WORDS = ["open", "the", "table", "row", "cell", "sheet", "chart", "value", "menu", "file", "page"]
# Rounding of partial sums depends on the number of devices: errors of 5e-7 were observed.
TOLERANCE = {"rtol": 1e-5, "atol": 5e-6}
LIMIT = 150  # seconds for any process to end, on a busy machine

pytestmark = pytest.mark.backends("tensorflow", "jax", reason="Keras trains on one torch process")


@pytest.fixture(scope="module", autouse=True)
def _one_device_each():
    """Without the eight devices of tests/test_distribution.py."""
    with pytest.MonkeyPatch.context() as patch:
        flags = os.environ.get("XLA_FLAGS", "")
        patch.setenv("XLA_FLAGS", flags.replace("device_count=8", "device_count=1"))
        yield


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """A text of sixty documents, and a small model."""
    draw, path = np.random.default_rng(0), tmp_path_factory.mktemp("text") / "text.txt"
    paragraph = " ".join(draw.choice(WORDS, 850))
    path.write_text("\n\n".join(f"{number} {paragraph}" for number in range(60)))
    return ["--text", path, "--size", "gpt_tiny", "--steps", 10, "--save-every", 1]


def start(output, options, *more, other=(), only=(0, 1)):
    """Start two workers, as on two machines; the second may have other options."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        addresses = ",".join(f"127.0.0.1:{free.getsockname()[1]}" for free in (one, two))
    script = ROOT / "examples" / "distributed.py"
    given = [sys.executable, script, *options, "--output", output, "--workers", addresses, *more]
    return [
        subprocess.Popen(
            [*map(str, given), "--index", str(index), *map(str, other if index else ())],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True,
        )
        for index in only
    ]


def end(processes):
    """The output of each process; all must succeed."""
    printed = [process.communicate(timeout=LIMIT)[0] for process in processes]
    for process, text in zip(processes, printed, strict=True):
        assert process.returncode == 0, text[-3000:]
    return printed


def killed(output, options, victim, step=4):
    """Run two workers and kill one when the file of a step exists."""
    processes = start(output, options)
    ends = time.monotonic() + LIMIT
    while not (output / "checkpoints" / f"step-{step:010d}.npz").exists():
        assert time.monotonic() < ends and all(process.poll() is None for process in processes)
        time.sleep(0.02)
    os.kill(processes[victim].pid, signal.SIGKILL)
    for process in processes:
        process.communicate(timeout=LIMIT)
    assert processes[victim].returncode == -signal.SIGKILL
    assert processes[1 - victim].returncode != 0


def state(output):
    """All variables of the last file, and the losses of the epochs."""
    with np.load(max((output / "checkpoints").glob("step-*.npz"))) as file:
        header = json.loads(file["header"].tobytes())
        values = [file[f"variable_{i}"] for i in range(len(header["variables"]))]
    assert header["record"]["step"] == 10
    assert (output / "model.keras").is_file()
    return values, header["record"]["logs"]


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """The final state of two workers."""
    output = tmp_path_factory.mktemp("whole")
    end(start(output, options))
    return state(output)


def test_two_workers_train_as_one_process(options, whole, tmp_path):
    printed_by("distributed", *options, "--output", tmp_path)
    values, logs = state(tmp_path)
    for value, expected in zip(whole[0], values, strict=True):
        np.testing.assert_allclose(value, expected, **TOLERANCE)
    for epoch, expected in zip(whole[1], logs, strict=True):
        assert epoch == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_workers_resume_exactly_after_one_was_killed(options, whole, tmp_path, victim):
    killed(tmp_path, options, victim)
    end(start(tmp_path, [], "--resume"))  # with the options of the first run
    values, logs = state(tmp_path)
    assert logs == whole[1]
    for value, expected in zip(values, whole[0], strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.slow
@pytest.mark.parametrize("differs", ["directory", "data"])
def test_workers_with_different_directories_or_data_raise(options, tmp_path, differs):
    killed(tmp_path / "run", options, 1, step=2)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "run", copy, ignore=shutil.ignore_patterns("*.npz"))
    backwards = tmp_path / "backwards.txt"
    lines = options[1].read_text().split("\n")
    backwards.write_text("\n".join(" ".join(reversed(line.split())) for line in lines))
    other = {"directory": ["--output", copy], "data": ["--text", backwards]}[differs]
    both = start(tmp_path / "run", [], "--resume", other=other)
    for process, printed in [(process, process.communicate(timeout=LIMIT)[0]) for process in both]:
        assert process.returncode != 0
        assert f"`{differs}` must be" in printed


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_resuming_with_other_data_raises(options, tmp_path, workers):
    given = [*options, "--output", tmp_path, "--workers", workers]
    printed_by("distributed", *given, "--steps", 5)
    before = (tmp_path / "run.json").read_text()
    status, printed = run("distributed", *given, "--resume", "--steps", 10, "--seed", 2)
    assert status == 1
    assert "Traceback" not in printed and "to resume" not in printed
    assert (tmp_path / "run.json").read_text() == before
    assert re.search(
        r"`data` must be what .*step-0000000005.npz was trained on, .*'seed': 1", printed
    )


@pytest.mark.slow
@pytest.mark.parametrize("given", [["--workers", 2], ["--split-cpu", 4]])
def test_several_workers_on_one_machine_train_as_one_process(options, whole, tmp_path, given):
    printed_by("distributed", *options, "--output", tmp_path, *given)
    for value, expected in zip(state(tmp_path)[0], whole[0], strict=True):
        np.testing.assert_allclose(value, expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["abc"], "got abc"),
        (["0"], "got 0"),
        (["-1"], "got -1"),
        (["b:2222,a:99999"], "got a:99999"),
        (["b:2222", "--index", 1], "`index` must be one of the 1 addresses, got 1"),
        ([2, "--index", 1], "--index needs addresses in --workers, got --workers 2"),
    ],
)
def test_impossible_workers_raise_with_one_line(tmp_path, monkeypatch, given, message):
    options = ["--output", tmp_path / "run", "--workers", *given]
    assert refusal(monkeypatch, "distributed", *options, cwd=tmp_path).endswith(message)
    assert not list(tmp_path.rglob("*.json"))


@pytest.fixture
def distributed(monkeypatch):
    """The example as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module("distributed")


CHIEF = {"chief": ["a:1"], "worker": ["b:2", "c:3"]}
NUM, ADDRESSES, INDEX = (
    f"KERAS_DISTRIBUTION_{name}" for name in ("NUM_PROCESSES", "JOB_ADDRESSES", "PROCESS_ID")
)


def tf_config(cluster, kind, index):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


@pytest.mark.parametrize(
    ("variables", "workers", "index"),
    [
        ({}, "1", 0),
        ({"TF_CONFIG": "{}"}, "1", 0),
        (tf_config({"worker": ["b:2", "c:3"]}, "worker", 1), "b:2,c:3", 1),
        (tf_config({"chief": ["a:1"]}, "chief", 0), "a:1", 0),
        (tf_config(CHIEF, "chief", 0), "a:1,b:2,c:3", 0),
        (tf_config(CHIEF, "worker", 0), "a:1,b:2,c:3", 1),
        (tf_config(CHIEF, "worker", "1"), "a:1,b:2,c:3", 2),
        ({ADDRESSES: "a:1,b:2", INDEX: "1"}, "a:1,b:2", 1),
        ({ADDRESSES: "a:1,b:2", INDEX: "1", NUM: "2"}, "a:1,b:2", 1),
    ],
)
def test_the_environment_names_workers_and_index(
    distributed, monkeypatch, variables, workers, index
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    arguments = distributed.options().parse_args([])
    assert (arguments.workers, arguments.index) == (workers, index)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TF_CONFIG": "{"}, "TF_CONFIG must have a cluster and a task, got Expecting"),
        ({"TF_CONFIG": "[]"}, "TF_CONFIG must have a cluster and a task, got "),
        (
            tf_config({**CHIEF, "ps": ["d:4"]}, "ps", 0),
            "TF_CONFIG must have chief and worker only, got chief, worker, ps and the task ps",
        ),
        ({ADDRESSES: "a:1", NUM: "2"}, "an address of each of the 2 processes, got a:1"),
    ],
)
def test_an_environment_that_names_no_worker_raises(distributed, monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=message):
        distributed.options()


@pytest.mark.backends("jax", reason="a model is split on JAX only")
def test_heads_that_the_devices_do_not_divide_raise(distributed, monkeypatch):
    import jax

    eight = [f"cpu:{index}" for index in range(8)]  # how many there are depends on earlier tests
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(distributed.keras.distribution, "list_devices", lambda: eight)
    arguments = distributed.options().parse_args(["--model-parallel", "8"])
    with pytest.raises(SystemExit, match="--model-parallel 8: heads must be divisible by the 8 "):
        distributed.connect_jax(arguments, ["localhost:0"])


def die(arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(arguments):
    raise SystemExit("refused")


def end_refused(arguments):
    sys.exit(2)


@pytest.mark.parametrize(("worker", "hint"), [(die, True), (refuse, False)])
def test_only_a_run_with_a_killed_worker_can_be_resumed(tmp_path, monkeypatch, worker, hint):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    distributed, runs = (importlib.import_module(name) for name in ("distributed", "_runs"))
    if worker is refuse:
        monkeypatch.setattr(distributed, "work", refuse)
        with pytest.raises(SystemExit) as refused:
            distributed.attempt(distributed.options().parse_args([]))
        assert refused.value.code == distributed.REFUSED
        worker = end_refused
    monkeypatch.setattr(distributed, "attempt", worker)
    monkeypatch.setattr(sys, "argv", ["an example.py"])
    folder = tmp_path / "a run"
    arguments = runs.start(
        distributed.main, distributed.options(), ["--workers", "2", "--output", str(folder)]
    )
    runs.begin(arguments)
    with pytest.raises(SystemExit) as ended:
        distributed.main(arguments)
    line = str(ended.value)
    assert re.match(f"worker [01] ended with status {-signal.SIGKILL if hint else 2}", line)
    command = f"python 'an example.py' --resume --output '{folder}'"
    assert line.endswith(f"; to resume: {command}") if hint else "to resume" not in line


@pytest.mark.slow
def test_a_missing_worker_raises(options, tmp_path):
    (alone,) = start(tmp_path, options, "--wait", 0.5, only=[0])
    printed = alone.communicate(timeout=LIMIT)[0]
    assert alone.returncode == 1
    assert "after 0.5 s, worker 0 still waits for worker 1 at 127.0.0.1:" in printed
