"""The files of one process and of several, and what each process reads of them.

JAX makes eight devices of one CPU; two processes are simulated by writing the parts in turn.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_attn import backend
from keras_attn.models.parts import SPLIT_WEIGHTS
from keras_attn.training import TrainingCheckpoint, state_file
from tests.trainable import bert_pretraining, compiled

on_a_mesh = pytest.mark.backends("jax", reason="keras.distribution splits weights on JAX")
KERNEL, BIAS = np.arange(96, dtype="float32").reshape(12, 8), np.arange(8, dtype="float32")


def test_one_process_writes_a_plain_archive_of_numpy(finished, tmp_path):
    """Byte by byte what it was before variables could be split: so old files can be read."""
    path = max(finished.iterdir())
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(arrays["header"].tobytes())
    assert set(header) == {"record", "variables"}
    numbered = [f"variable_{i}" for i in range(len(header["variables"]))]
    others = [name for name in arrays if name.startswith("generator_")]
    np.savez(
        tmp_path / "again.npz", **{name: arrays[name] for name in ("header", *numbered, *others)}
    )
    assert path.read_bytes() == (tmp_path / "again.npz").read_bytes()


def variables(shape):
    """A kernel split over both axes of the mesh, and a bias that is not, in bfloat16."""
    mesh = keras.distribution.DeviceMesh(shape, ["batch", "model"])
    layout = keras.distribution.LayoutMap(mesh)
    layout["kernel"] = ("batch", "model")
    with keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch").scope():
        return [
            keras.Variable(KERNEL, name="kernel", dtype="bfloat16"),
            keras.Variable(BIAS, name="bias"),
        ]


def write(path, numbers=None):
    """A file of two processes; `numbers` gives what the first one receives at the end."""
    received, split = [], variables((4, 2))
    for index in (1, 0):
        owned = [list(backend.owned_parts(variable).items()) for variable in split]
        state_file.write(
            path,
            split,
            [dict(parts[index::2]) for parts in owned],  # the whole bias is the first one's
            {"some": np.array([7])},
            {"step": 3},
            index,
            2,
            lambda number: received.insert(0, number) or (numbers or list)(received),
        )


def read(path, into):
    saved = state_file.read(path)
    saved.compare(into)
    values = saved.values([backend.needed_parts(variable) for variable in into])
    for variable, parts in zip(into, values, strict=True):
        backend.assign_parts(variable, parts)
    return saved


@on_a_mesh
@pytest.mark.parametrize("shape", [(2, 4), (4, 2), (1, 8)])
def test_parts_of_two_processes_are_combined_on_any_mesh(tmp_path, shape):
    path = tmp_path / "state.npz"
    write(path)
    into = variables(shape)
    for variable in into:
        variable.assign(np.zeros(variable.shape))
    saved = read(path, into)
    assert (saved.record, saved.generators["some"]) == ({"step": 3}, [7])
    for variable, expected in zip(into, (KERNEL, BIAS), strict=True):
        np.testing.assert_array_equal(np.asarray(variable.value), expected)
    shards = {shard.data.shape for shard in into[0].value.addressable_shards}
    assert shards == {(12 // shape[0], 8 // shape[1])}


@on_a_mesh
def test_each_process_writes_its_parts_only(tmp_path):
    write(tmp_path / "state.npz")
    names = {}
    for path in tmp_path.iterdir():
        with np.load(path) as file:
            names[path.name] = {name: file[name].nbytes for name in file.files}
    eighth = KERNEL.size * 2 // 8
    rows = {0: "0:4", 1: "4:8"}  # of the mesh transposed: every second part lies in column 1
    first = {f"variable_0[{3 * i}:{3 * i + 3},{rows[0]}]": eighth for i in range(4)}
    second = {f"variable_0[{3 * i}:{3 * i + 3},{rows[1]}]": eighth for i in range(4)}
    assert names["state.part-0-of-2"] == first | {"variable_1": BIAS.nbytes}
    assert names["state.part-1-of-2"] == second
    assert set(names["state.npz"]) == {"header", "generator_some"}


@on_a_mesh
def test_nothing_is_read_that_is_not_needed(tmp_path):
    path, part = tmp_path / "state.npz", tmp_path / "state.part-1-of-2"
    write(path)
    content = bytearray(part.read_bytes())
    content[content.index(b"NUMPY") + 130] ^= 1  # in the numbers of its first array
    part.write_bytes(content)
    saved = state_file.read(path)
    intact = ((1, 12), (0, 4))
    ((found,), _) = (parts.values() for parts in saved.values([[intact], []]))
    np.testing.assert_array_equal(found, KERNEL[1:12, 0:4])
    assert not state_file.is_intact(path)
    with pytest.raises(ValueError, match=f"{part.name} is damaged, or not a training checkpoint"):
        saved.values([[((0, 3), (0, 8))], []])


@on_a_mesh
def test_a_missing_or_older_part_raises(tmp_path):
    path, part = tmp_path / "state.npz", tmp_path / "state.part-1-of-2"
    write(path)
    content = part.read_bytes()
    part.unlink()
    with pytest.raises(ValueError, match=f"{part.name}, a part of {path.name}, is missing"):
        state_file.read(path)
    part.write_bytes(content[:-30])
    with pytest.raises(ValueError, match=f"{part.name} is damaged, or not a training checkpoint"):
        state_file.read(path)
    with open(part, "wb") as file:
        np.savez(file, **{"variable_0[0:3,4:8]": KERNEL})
    with pytest.raises(ValueError, match=f"{part.name} was not written with {path.name}"):
        state_file.read(path)


@on_a_mesh
def test_an_incomplete_file_raises(tmp_path):
    path = tmp_path / "state.npz"
    split = variables((4, 2))
    state_file.write(path, split, [backend.owned_parts(variable) for variable in split], {}, {})
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "variable_0[3:6,4:8]"}
    np.savez(path, **arrays)
    with pytest.raises(
        ValueError,
        match=re.escape("it has 12 of 24 numbers of variable_0[0:6,4:8]"),
    ):
        state_file.read(path).values([[((0, 6), (4, 8))], [None]])


@on_a_mesh
def test_without_all_parts_there_is_no_checkpoint(tmp_path):
    def killed(received):
        raise InterruptedError

    path = tmp_path / "state.npz"
    for numbers in (killed, lambda received: received if len(received) < 2 else killed(received)):
        with pytest.raises(InterruptedError):
            write(path, numbers)
        assert not path.exists()
    assert len(list(tmp_path.glob("state.part-*"))) == 2
    write(path)
    read(path, variables((2, 4)))


@on_a_mesh
def test_a_part_that_cannot_be_written_ends_all_processes(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"

    def other_failed(received):
        return [*received[:-1], -1] if len(received) > 1 else received

    with pytest.raises(ValueError, match="process 1 could not write its part of .*state.npz: its"):
        write(path, other_failed)
    assert not path.exists()

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    said = []
    monkeypatch.setattr(np, "savez", full)
    split = variables((4, 2))
    with pytest.raises(OSError, match="No space left on device"):
        state_file.write(path, split, [{}, {}], {}, {}, 1, 2, said.append)
    assert said == [-1]


def two_processes(directory, kill=0):
    """Two processes with two devices each train ten steps, or die as the file of one is written."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    code = "import sys; from tests.training.test_state_file import child; child(*sys.argv[1:])"
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, directory, address, str(i), str(kill)],
            env=os.environ
            | {
                "PYTHONPATH": os.getcwd(),
                "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            },
        )
        for i in range(2)
    ]
    ended = [process.wait(timeout=150) for process in both]
    assert ended == ([-signal.SIGKILL] * 2 if kill else [0, 0])


def child(directory, address, index, kill):
    """One of two processes, which hold half of each split matrix each."""
    import jax

    from tests.test_distribution import train_on

    jax.distributed.initialize(address, 2, int(index))
    write = state_file.write

    def killed(path, *arguments):
        if int(path.stem.removeprefix("step-")) != int(kill):
            write(path, *arguments)
            return
        if index == "0":  # its part is there; the other's and the file itself are not
            write(path, *arguments[:-1], lambda digest: os.kill(os.getpid(), signal.SIGKILL))
        os.kill(os.getpid(), signal.SIGKILL)

    state_file.write = killed
    epochs = range(1 if TrainingCheckpoint(directory)._files() else 0, 2)
    rows = slice(4 * int(index), 4 * int(index) + 4)
    model, _ = train_on((2, 2), directory, epochs, rows, fully_sharded=True)
    table = next(v for v in model.weights if v.path.endswith("token/embeddings"))
    shards = [shard.data.nbytes for shard in table.value.addressable_shards]
    assert shards == [table.value.nbytes // 4] * 2


@on_a_mesh
@pytest.mark.slow
def test_two_processes_write_their_parts_and_a_kill_keeps_the_previous_file(tmp_path):
    from tests.test_distribution import assert_same, trained

    killed, straight = tmp_path / "killed", tmp_path / "straight"
    two_processes(killed, kill=10)
    files = {path.name for path in killed.glob("step-*")}
    assert files == {
        *("step-0000000005.npz", "step-0000000005.part-0-of-2", "step-0000000005.part-1-of-2"),
        "step-0000000010.part-0-of-2",
    }
    two_processes(killed)
    two_processes(straight)
    parts = [f"step-0000000010.part-{index}-of-2" for index in range(2)]
    for name in ("step-0000000010.npz", *parts):
        with np.load(killed / name) as have, np.load(straight / name) as want:
            np.testing.assert_equal(dict(have), dict(want))
    model, x, y = given = bert_pretraining()
    compiled(given)
    assert TrainingCheckpoint(killed).restore(model, (x, y)) == 10
    assert_same((model, []), (trained(bert_pretraining)[0], []))
    split = [v for v in model.weights if any(re.fullmatch(p, v.path) for p, *_ in SPLIT_WEIGHTS)]
    # Matrices are split; a bias, which both have, is the first one's. Adam has two moments.
    matrices, biases = (
        3 * sum(v.value.nbytes for v in split if len(v.shape) == rank) for rank in (2, 1)
    )
    for index, part in enumerate(parts):
        with np.load(killed / part) as file:
            sizes = {name: file[name].nbytes for name in file.files}
        in_parts = sum(size for name, size in sizes.items() if "[" in name)
        assert in_parts == matrices // 2 + (biases if index == 0 else 0)
        assert any("[" not in name for name in sizes) == (index == 0)
