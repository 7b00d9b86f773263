"""Checkpoint files of a training run, and errors."""

import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_attn import backend
from keras_attn.training import TrainingCheckpoint
from tests.training.runs import (
    EPOCHS,
    STEPS,
    KilledError,
    assert_same,
    batch_of,
    kill_at,
    make_model,
    raise_killed,
    state,
    stream,
    train,
)

several_steps = pytest.mark.backends(
    "tensorflow", "jax", reason="Keras on torch allows only one step per execution"
)


def test_keeps_the_newest_files(finished):
    names = sorted(path.name for path in finished.iterdir())
    assert names == ["step-0000000016.npz", "step-0000000018.npz"]


@pytest.mark.backends("tensorflow", reason="the check of a file is the same on every backend")
def test_a_damaged_byte_raises_or_changes_nothing(finished):
    path = max(finished.glob("*.npz"))
    model = make_model()
    TrainingCheckpoint(finished).restore(model, batch_of(0))
    expected = state(model)
    intact = path.read_bytes()
    found = 0
    for position in range(0, len(intact), len(intact) // 31):
        damaged = bytearray(intact)
        damaged[position] ^= 64
        path.write_bytes(damaged)
        model = make_model()
        try:
            TrainingCheckpoint(finished).restore(model, batch_of(0))
        except ValueError as error:
            found += 1
            assert str(path) in str(error)
        else:
            for value, intact_value in zip(state(model), expected, strict=True):
                np.testing.assert_array_equal(value, intact_value)
    assert found > 10


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_file_raises(finished, content):
    path = max(finished.glob("*.npz"))
    path.write_bytes(path.read_bytes()[:-1000] if content is None else content)
    with pytest.raises(ValueError, match=f"{path.name} is damaged, or not a training checkpoint"):
        TrainingCheckpoint(finished).restore(make_model(), batch_of(0))


def test_the_intact_file_before_a_damaged_one_can_be_restored(finished, whole):
    path = max(finished.glob("*.npz"))
    path.write_bytes(path.read_bytes()[:-1000])
    hint = r"step-0000000016.npz before it is intact: `restore\(..., step=16\)`"
    with pytest.raises(ValueError, match=f"{path.name} is damaged.*; {hint}"):
        TrainingCheckpoint(finished).restore(make_model(), batch_of(0))
    model, checkpoint = make_model(), TrainingCheckpoint(finished, keep=1)
    assert checkpoint.restore(model, batch_of(0), step=np.int64(16)) == 16
    history = model.fit(
        stream(16),
        steps_per_epoch=STEPS,
        epochs=EPOCHS,
        initial_epoch=2,
        validation_data=batch_of(1000),
        callbacks=[checkpoint],
        shuffle=False,
        verbose=0,
    )
    assert_same((model, history), whole)
    assert [file.name for file in finished.iterdir()] == [path.name]
    with pytest.raises(ValueError, match=r"`step` must be that of a file in .*, one of 18, got 16"):
        checkpoint.restore(model, batch_of(0), step=16)
    with pytest.raises(ValueError, match=r"one of 18, got '18'"):
        checkpoint.restore(model, batch_of(0), step="18")


def test_a_file_of_another_model_raises(finished):
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other.compile("sgd", "mse")
    with pytest.raises(
        ValueError,
        match=r"does not fit this model and optimizer: .*kernel must be kernel float32\[3, 2\], "
        r"got kernel float32\[3, 11\]",
    ):
        TrainingCheckpoint(finished).restore(other, batch_of(0))


def unread():
    raise AssertionError("an element was read")
    yield


@pytest.mark.parametrize("rows", [None, 4])  # as of labels beside what a preprocessor gives
@pytest.mark.parametrize("form", ["dataset", "spec", "keras"])
def test_restore_reads_nothing_from_a_dataset_or_its_spec(finished, form, rows):
    spec = (
        tf.TensorSpec((None, 3), "float32"),
        tf.TensorSpec((rows, 1), "float32"),
        tf.TensorSpec((None,), "float32"),
    )
    data = {
        "dataset": tf.data.Dataset.from_generator(unread, output_signature=spec),
        "spec": spec,
        "keras": tuple(keras.KerasTensor(s.shape, "float32") for s in spec),
    }[form]
    model, other = make_model(), make_model()
    assert TrainingCheckpoint(finished).restore(model, data) == 18
    TrainingCheckpoint(finished).restore(other, batch_of(0))
    for value, expected in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(value, expected)


def tokens_model():
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Embedding(7, 3)(inputs)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize(
    "shapes",
    [
        [(None, None), (None, None), (None, None)],
        [(None, None), (None, 6), (None, None)],
        [(None, 6), (4, None), (4, None)],
        [(None, None), (None, None), (None, 6)],
    ],
)
def test_open_lengths_are_those_of_another_tensor(tmp_path, shapes):
    spec = tuple(
        tf.TensorSpec(s, d) for s, d in zip(shapes, ["int32", "int32", "float32"], strict=True)
    )
    ones = np.ones((4, 6))
    for already in (0, 2):
        model, checkpoint = tokens_model(), TrainingCheckpoint(tmp_path, every=2)
        assert checkpoint.restore(model, spec) == already
        if not already:
            model.fit(ones, ones, sample_weight=ones, batch_size=2, callbacks=[checkpoint])


def test_a_batch_of_unknown_rank_is_refused_before_training(tmp_path):
    spec = tf.TensorSpec(None, "int32"), tf.TensorSpec((4, 6), "int32")
    with pytest.raises(ValueError, match="`batch` must have tensors of known rank"):
        TrainingCheckpoint(tmp_path).restore(tokens_model(), spec)


def test_a_batch_that_does_not_fit_is_named(tmp_path):
    model, ones = tokens_model(), np.ones((4, 6))
    checkpoint = TrainingCheckpoint(tmp_path, every=2)
    checkpoint.restore(model, (ones, ones))
    model.fit(ones, ones, batch_size=2, callbacks=[checkpoint])
    spec = tf.TensorSpec((None, None, 3), "int32"), tf.TensorSpec((4, 6), "int32")
    with pytest.raises(ValueError, match=r"`batch` must be .* got shapes \[\(None, None, 3\), "):
        TrainingCheckpoint(tmp_path).restore(tokens_model(), spec)


def test_numpy_numbers_are_accepted_in_logs_and_arguments(tmp_path):
    def log(epoch, logs):
        logs.update(count=np.int64(epoch), rate=np.float32(0.5), each=np.array([1.5, epoch]))

    for epochs in (1, 2):
        model, checkpoint = make_model(), TrainingCheckpoint(tmp_path, np.int64(5), np.int32(2))
        checkpoint.restore(model, batch_of(0))
        history = model.fit(
            stream(0),
            steps_per_epoch=np.int64(2),
            initial_epoch=epochs - 1,
            epochs=epochs,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=log), checkpoint],
            shuffle=False,
            verbose=0,
        )
    found = {name: history.history[name] for name in ("count", "rate", "each")}
    assert found["count"] == [0, 1]
    assert found["rate"] == [0.5, 0.5]
    np.testing.assert_array_equal(found["each"], [[1.5, 0], [1.5, 1]])


@pytest.mark.parametrize("name", ["every", "keep"])
@pytest.mark.parametrize("value", [0, np.int64(-1), 2.0, True])
def test_arguments_that_are_not_positive_integers_raise(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer, got "):
        TrainingCheckpoint(tmp_path, **{name: value})


def test_fit_raises_unless_it_continues_where_the_file_ends(tmp_path):
    with pytest.raises(KilledError):
        train(tmp_path, kill_at(9, raise_killed))
    arguments = {"steps_per_epoch": STEPS, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
    model = make_model()

    checkpoint = TrainingCheckpoint(tmp_path)
    with pytest.raises(ValueError, match="must hold no checkpoint unless restore is called, got"):
        model.fit(stream(0), callbacks=[checkpoint], **arguments)
    assert checkpoint.restore(model, batch_of(0)) == 8
    with pytest.raises(ValueError, match="`initial_epoch` of fit must be 1 after 8 steps, got 0"):
        model.fit(stream(8), callbacks=[checkpoint], **arguments)
    arguments |= {"steps_per_epoch": 7, "initial_epoch": 1}
    with pytest.raises(ValueError, match="`steps_per_epoch` of fit must be 6, got 7"):
        model.fit(stream(8), callbacks=[checkpoint], **arguments)


@several_steps
def test_steps_per_epoch_must_be_a_multiple_of_steps_per_execution(tmp_path):
    model = make_model(steps_per_execution=4)
    with pytest.raises(ValueError, match="must be a multiple of steps_per_execution=4, got 6"):
        model.fit(
            stream(0),
            steps_per_epoch=6,
            shuffle=False,
            verbose=0,
            callbacks=[TrainingCheckpoint(tmp_path)],
        )


def test_restoring_with_other_data_raises(tmp_path):
    arguments = {"steps_per_epoch": 2, "shuffle": False, "verbose": 0}
    first = TrainingCheckpoint(tmp_path, data={"seed": 1, "files": ("a", "b")})
    make_model().fit(stream(0), callbacks=[first], **arguments)
    for same in ({"files": ["a", "b"], "seed": 1}, None):
        assert TrainingCheckpoint(tmp_path, data=same).restore(make_model(), batch_of(0)) == 2
    with pytest.raises(
        ValueError,
        match=r"`data` must be what .*step-0000000002.npz was trained on, "
        r"\{'seed': 1, 'files': \['a', 'b'\]\}, got 'c'",
    ):
        TrainingCheckpoint(tmp_path, data="c").restore(make_model(), batch_of(0))
    other = {"seed": 2, "files": ["a", "b"], "new": None}
    with pytest.raises(
        ValueError, match=r"trained on, \{'seed': 1\}, got \{'seed': 2, 'new': None\}$"
    ):
        TrainingCheckpoint(tmp_path, data=other).restore(make_model(), batch_of(0))


def test_processes_with_different_files_or_data_raise(tmp_path, finished, monkeypatch):
    """Two processes; `others` holds the answers of the second."""
    monkeypatch.setattr(
        backend, "from_all_processes", lambda model, number: [number, others.pop(0)]
    )
    others = [0, 18, 7]
    with pytest.raises(
        ValueError, match="`data` must be the same in all processes, got 'a' here, "
    ):
        TrainingCheckpoint(finished, data="a").restore(make_model(), batch_of(0))
    others = [0, 0]
    with pytest.raises(
        ValueError,
        match="`directory` must be one that all processes see, got files up to step 18, 0 in ",
    ):
        TrainingCheckpoint(finished).restore(make_model(), batch_of(0))


def answer(monkeypatch, fail_at=None):
    """The second of two processes answers as this one, or that it failed; what this one says."""
    said = []

    def gather(model, number):
        said.append(number)
        return [number, 1 if len(said) - 1 == fail_at else number]

    monkeypatch.setattr(backend, "from_all_processes", gather)
    return said


@pytest.mark.parametrize(
    ("fail_at", "what"),
    # the file of the step, the step, the data, the file without its values, its values
    [(0, "find"), (3, "read"), (4, "read")],
)
def test_no_process_resumes_if_another_fails(finished, monkeypatch, fail_at, what):
    answer(monkeypatch, fail_at)
    with pytest.raises(ValueError, match=f"process 1 could not {what} the checkpoint: its error"):
        TrainingCheckpoint(finished).restore(make_model(), batch_of(0))


@pytest.mark.parametrize("fault", ["step", "damaged", "missing", "data", "model"])
def test_a_process_that_cannot_resume_tells_the_others(finished, monkeypatch, fault):
    """They would wait for it in vain."""
    said = answer(monkeypatch)
    path, model, data = max(finished.glob("*.npz")), make_model(), None
    if fault == "damaged":
        path.write_bytes(b"no archive")
    elif fault == "missing":
        monkeypatch.setattr(TrainingCheckpoint, "_files", lambda self: {18: path})
        path.unlink()
    elif fault == "data":
        with np.load(path) as file:
            content = dict(file)
        header = json.loads(content["header"].tobytes())
        header["record"]["data"], data = "other", "own"
        content["header"] = np.frombuffer(json.dumps(header).encode(), "uint8")
        np.savez(path, **content)
    elif fault == "model":
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="other")])
        model.compile("sgd", "mse")
    with pytest.raises((ValueError, FileNotFoundError)):
        step = 17 if fault == "step" else None
        TrainingCheckpoint(finished, data=data).restore(model, batch_of(0), step)
    assert said[-1] == 1
    assert len(said) == {"step": 1, "model": 5}.get(fault, 4)


def test_all_processes_end_if_one_cannot_write(tmp_path, monkeypatch):
    said = answer(monkeypatch, fail_at=1)
    options = {"steps_per_epoch": 2, "shuffle": False, "verbose": 0}
    with pytest.raises(ValueError, match="process 1 could not write the checkpoint: its error"):
        make_model().fit(stream(0), callbacks=[TrainingCheckpoint(tmp_path)], **options)

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    said = answer(monkeypatch)
    with pytest.raises(OSError, match="No space left on device"):
        make_model().fit(stream(0), callbacks=[TrainingCheckpoint(tmp_path / "other")], **options)
    assert said == [0, 1]


def test_no_process_writes_if_the_weights_of_one_hold_nan(tmp_path, monkeypatch):
    answer(monkeypatch, fail_at=0)
    options = {"steps_per_epoch": 2, "shuffle": False, "verbose": 0}
    with pytest.warns(UserWarning, match="hold NaN after 2 steps: nothing is saved"):
        make_model().fit(stream(0), callbacks=[TrainingCheckpoint(tmp_path)], **options)
    assert not list(tmp_path.iterdir())


def test_only_the_first_process_writes_files(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "file_number", lambda model, variables: (1, 1))
    train(tmp_path)
    assert not list(tmp_path.iterdir())


def test_restoring_an_uncompiled_model_raises(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(
        ValueError, match="`model` must be a keras.Model that is compiled, got <Seq"
    ):
        TrainingCheckpoint(tmp_path).restore(model, batch_of(0))


def test_arguments_of_another_kind_raise(tmp_path):
    for directory in (None, 3, ""):
        with pytest.raises(ValueError, match=f"`directory` must be a path, got {directory!r}"):
            TrainingCheckpoint(directory)
    for data in ({1}, float, np.zeros(2)):
        with pytest.raises(ValueError, match="`data` must be what JSON can hold, got "):
            TrainingCheckpoint(tmp_path, data=data)
    with pytest.raises(ValueError, match="`model` must be a keras.Model that is compiled, got 'x'"):
        TrainingCheckpoint(tmp_path).restore("x", batch_of(0))
    with pytest.raises(ValueError, match="`batch` must be an element of the data, got None"):
        TrainingCheckpoint(tmp_path).restore(make_model(), None)


def test_the_header_is_json(finished):
    with np.load(max(finished.glob("*.npz"))) as file:
        record = json.loads(file["header"].tobytes())["record"]
    assert (record["step"], record["steps_per_epoch"], len(record["logs"])) == (18, 6, EPOCHS)


@pytest.mark.parametrize("others", [[], [keras.callbacks.TerminateOnNaN()]], ids=["all", "stopped"])
def test_weights_with_nan_replace_no_file(tmp_path, others):
    def broken():
        for step in itertools.count():
            x, y, _ = batch_of(step)
            yield x * (1 if step < 9 else np.nan), y

    def linear():  # torch refuses a cross entropy of NaN
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", jit_compile=False)
        return model

    with pytest.warns(UserWarning, match=r"hold NaN after 1\d steps: .* keeps the"):
        linear().fit(
            broken(),
            steps_per_epoch=STEPS,
            epochs=EPOCHS,
            callbacks=[*others, TrainingCheckpoint(tmp_path, every=2)],
            shuffle=False,
            verbose=0,
        )
    assert sorted(path.name[-6:] for path in tmp_path.iterdir()) == ["06.npz", "08.npz"]
    assert TrainingCheckpoint(tmp_path).restore(linear(), next(broken())) == 8


def test_a_sum_of_gradients_with_nan_replaces_no_file(tmp_path):
    def broken():
        for step in itertools.count():
            x, y, _ = batch_of(step)
            yield x * (1 if step != 5 else np.nan), y

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=4), "mse", jit_compile=False)
    saver = TrainingCheckpoint(tmp_path, every=1, keep=2)
    options = {"steps_per_epoch": 7, "callbacks": [saver], "shuffle": False, "verbose": 0}
    with pytest.warns(UserWarning, match="the optimizer hold NaN after [67] steps"):
        model.fit(broken(), **options)
    assert np.isfinite(model.get_weights()[0]).all()  # until the eighth step
    assert sorted(path.name[-6:] for path in tmp_path.iterdir()) == ["04.npz", "05.npz"]
