"""A version is complete or absent, whenever its writer is killed."""

import random
import subprocess
import sys
import time

import keras
import pytest

from keras_attn import export
from keras_attn.export import versions

pytestmark = pytest.mark.backends("tensorflow", reason="what is served is a TensorFlow graph")

# Writes versions endlessly, each of 12 files in two folders; loads the module by its path, so that
# a process starts in milliseconds.
WRITER = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("versions", sys.argv[1])
versions = importlib.util.module_from_spec(spec)
spec.loader.exec_module(versions)
base_dir = pathlib.Path(sys.argv[2])
print("started", flush=True)
while True:
    with versions.written_beside(base_dir) as folder:
        (folder / "variables").mkdir()
        for index in range(11):
            (folder / "variables" / str(index)).write_bytes(b"x" * 1000)
        (folder / "saved_model.pb").write_bytes(b"x" * 1000)
        path = versions.commit(folder, None)
    versions.prune(base_dir, 3, int(path.name))
"""

PUBLISHER = """
import sys, keras
from keras_attn import export
inputs = keras.Input((3,), name="numbers")
model = keras.Model(inputs, keras.layers.Dense(2, name="scores")(inputs))
print("started", flush=True)
while True:
    export.publish(model, sys.argv[1], keep=2)
"""


def kill_after(arguments, seconds):
    """Start Python, wait for its first line and then `seconds`, and kill it."""
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"started\n"
        time.sleep(seconds)
        process.kill()


def numbers_model():
    inputs = keras.Input((3,), name="numbers")
    return keras.Model(inputs, keras.layers.Dense(2, name="scores")(inputs))


def complete(version):
    sizes = [file.stat().st_size for file in version.rglob("*") if file.is_file()]
    return sizes == [1000] * 12


def test_killed_writers_leave_no_incomplete_version(tmp_path):
    rng, left = random.Random(0), []
    for _ in range(40):
        kill_after(["-c", WRITER, versions.__file__, str(tmp_path)], rng.uniform(0, 0.1))
        found = versions.versions(tmp_path)
        assert all(complete(tmp_path / str(number)) for number in found)
        left.append(len([p for p in tmp_path.iterdir() if not p.name.isdecimal()]))
    assert found
    assert max(left) == 1  # killed while writing; the next writer removes the leftovers


@pytest.mark.slow
def test_a_killed_publish_leaves_only_versions_that_load(tmp_path):
    rng = random.Random(0)
    for _ in range(20):
        kill_after(["-c", PUBLISHER, str(tmp_path)], rng.uniform(0.1, 8))
        assert len([p for p in tmp_path.glob(".*") if p.is_dir()]) <= 2
        for number in versions.versions(tmp_path):
            answer = export.ask(tmp_path / str(number), numbers=[[1.0, 2.0, 3.0]])
            assert answer["scores"].shape == (1, 2)
    assert versions.versions(tmp_path)[-1] > 2
    export.publish(numbers_model(), tmp_path)
    assert not [p for p in tmp_path.glob(".*") if p.is_dir()]


def test_only_leftovers_of_killed_writers_are_removed(tmp_path):
    for name in (".unfinished-dead", ".removed-dead", ".hidden", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("half")
    with versions.written_beside(tmp_path) as alive, versions.written_beside(tmp_path) as mine:
        found = {p.name for p in tmp_path.iterdir()}
    assert found == {".hidden", "notes", alive.name, mine.name}


def test_leftovers_are_kept_on_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks available")

    (tmp_path / ".unfinished-someones").mkdir()
    monkeypatch.setattr(versions.fcntl, "flock", refuse)
    with versions.written_beside(tmp_path) as folder:
        path = versions.commit(folder, None)
    assert {p.name for p in tmp_path.iterdir()} == {".unfinished-someones", path.name}


def test_two_concurrent_writers_get_different_versions(tmp_path):
    arguments = ["-c", WRITER, versions.__file__, str(tmp_path)]
    processes = [subprocess.Popen([sys.executable, *arguments]) for _ in range(2)]
    time.sleep(0.6)
    running = [process.poll() for process in processes]
    for process in processes:
        process.kill()
        process.wait()
    assert running == [None, None]
    assert versions.versions(tmp_path)[-1] > 10  # both wrote versions and did not only start


def test_an_error_leaves_no_files(tmp_path):
    with pytest.raises(RuntimeError), versions.written_beside(tmp_path / "new") as folder:
        (folder / "file").write_text("half")
        raise RuntimeError
    assert not (tmp_path / "new").exists()


def test_a_full_disk_raises_and_leaves_no_files(tmp_path):
    with (
        pytest.raises(
            ValueError, match="`base_dir` must be a writable folder with space left, got"
        ),
        versions.written_beside(tmp_path / "new"),
        open("/dev/full", "w") as full,
    ):
        full.write("x" * 100_000)
    assert not (tmp_path / "new").exists()


def test_pruning_keeps_the_highest_and_the_newest(tmp_path):
    for number in (1, 3, 8, 20):
        (tmp_path / str(number)).mkdir()
    (tmp_path / "notes").mkdir()
    versions.prune(tmp_path, keep=2, newest=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["20", "3", "8", "notes"]
