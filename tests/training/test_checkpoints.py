"""A run that is cut anywhere ends as the run that is not cut."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_attn.layers import TransformerEncoderBlock
from keras_attn.training import TrainingCheckpoint

STEPS, EPOCHS = 6, 3


def stream(step):
    """Endless batches, each a function of its number."""
    while True:
        yield batch_of(step)
        step += 1


def batch_of(step):
    draw = np.random.default_rng([7, step])
    x = draw.normal(size=(5, 3)).astype("float32")
    weight = draw.integers(0, 2, 5).astype("float32")
    return x, (x.sum(1, keepdims=True) > 0).astype("float32"), weight


def make_model(**compile_arguments):
    inputs = keras.Input((3,))
    hidden = keras.layers.Dropout(0.5)(keras.layers.Dense(11)(inputs))  # no seeds: see `train`
    hidden = keras.layers.GaussianNoise(0.1)(hidden)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    draw = np.random.default_rng(2)
    model.set_weights([draw.normal(size=w.shape) for w in model.weights])
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 40), use_ema=True),
        "binary_crossentropy",
        weighted_metrics=["accuracy", keras.metrics.AUC(13, name="auc")],
        **compile_arguments,
    )
    return model


several_steps = pytest.mark.backends(
    "tensorflow", "jax", reason="Keras on torch allows one step an execution only"
)


class KilledError(Exception):
    pass


def kill_at(step, how):
    """A callback that ends the run after `step` batches, before they can be saved."""
    taken = 0

    def count(batch, logs):
        nonlocal taken
        taken += 1
        if taken == step:
            how()

    return keras.callbacks.LambdaCallback(on_train_batch_end=count)


def train(directory, killer=None, every=2, model=None, make=make_model, **compile_arguments):
    # A new run starts from one seed; a resumed one must not depend on it.
    keras.utils.set_random_seed(len(list(pathlib.Path(directory).glob("*.npz"))))
    model = model or make(**compile_arguments)
    checkpoint = TrainingCheckpoint(directory, every=every)
    step = checkpoint.restore(model, batch_of(0))
    history = model.fit(
        stream(step),
        steps_per_epoch=STEPS,
        epochs=EPOCHS,
        initial_epoch=step // STEPS,
        validation_data=batch_of(1000),
        callbacks=[killer, checkpoint] if killer else [checkpoint],
        shuffle=False,
        verbose=0,
    )
    return model, history


def state(model):
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [keras.ops.convert_to_numpy(v) for v in variables]


def assert_same(run, whole):
    for value, expected in zip(state(run[0]), state(whole[0]), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert run[1].epoch == whole[1].epoch == list(range(EPOCHS))
    assert run[1].history == whole[1].history


def raise_killed():
    raise KilledError


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(directory):
    return train(directory, every=4)


@pytest.fixture
def finished(whole, directory, tmp_path):
    """A copy of the files of `whole`."""
    return shutil.copytree(directory, tmp_path / "finished")


# within an epoch, at its last batch (whose file comes after the validation), and in the next
@pytest.mark.parametrize(
    "killed",
    [pytest.param(1, marks=pytest.mark.slow), 5, 6, pytest.param(11, marks=pytest.mark.slow)],
)
def test_interrupted_equals_uninterrupted(tmp_path, whole, killed):
    with pytest.raises(KilledError):
        train(tmp_path, kill_at(killed, raise_killed))
    assert_same(train(tmp_path), whole)


def test_interrupted_twice_in_one_epoch(tmp_path, whole):
    for batches in (9, 2):
        with pytest.raises(KilledError):
            train(tmp_path, kill_at(batches, raise_killed), every=1)
    assert_same(train(tmp_path), whole)


def test_checkpoints_do_not_change_the_training(whole):
    keras.utils.set_random_seed(0)
    model = make_model()
    arguments = {
        "validation_data": batch_of(1000),
        "shuffle": False,
        "verbose": 0,
    }
    history = model.fit(stream(0), steps_per_epoch=STEPS, epochs=EPOCHS, **arguments)
    assert_same((model, history), whole)


def test_resuming_a_finished_run_changes_nothing(finished, whole):
    model, history = train(finished)
    assert history.history == whole[1].history
    assert model.optimizer.iterations == STEPS * EPOCHS


@keras.saving.register_keras_serializable()
class Shaky(keras.layers.Layer):
    """Draws from Keras' global generator, which no layer owns."""

    def call(self, inputs, training=False):
        noise = keras.random.normal(keras.ops.shape(inputs)) if training else 0.0
        return inputs + noise


def shaky():
    model = keras.Sequential([keras.Input((3,)), Shaky(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def low_rank():
    """LoRA as users add it to a trained model: the kernels are frozen, adapters are new."""
    inputs = keras.Input((3,))
    block = TransformerEncoderBlock(1, 5, dropout=0.3)
    outputs = keras.layers.Flatten()(block(keras.layers.Reshape((1, 3))(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(1)(outputs))
    draw = np.random.default_rng(2)
    model.set_weights([draw.normal(size=w.shape) for w in model.weights])
    block.self_attention.value_projection.enable_lora(2)
    block.feed_forward.hidden_projection.enable_lora(2)
    model.compile(keras.optimizers.Adam(0.1), "mse")
    return model


def accumulating():
    model = make_model()
    optimizer = keras.optimizers.Adam(0.1, gradient_accumulation_steps=4, use_ema=True)
    model.compile(optimizer, "binary_crossentropy", weighted_metrics=["accuracy"])
    return model


@pytest.mark.parametrize(
    "make",
    [
        low_rank,
        pytest.param(accumulating, marks=pytest.mark.slow),
        pytest.param(
            shaky,
            marks=pytest.mark.backends("tensorflow", "torch", reason="JAX demands a seed there"),
        ),
    ],
)
def test_other_state_is_resumed_too(tmp_path, make):
    whole = train(tmp_path / "whole", make=make)
    with pytest.raises(KilledError):
        train(tmp_path / "cut", kill_at(9, raise_killed), make=make)
    assert_same(train(tmp_path / "cut", make=make), whole)


@several_steps
def test_several_steps_an_execution(tmp_path):
    whole = train(tmp_path / "whole", steps_per_execution=2)
    with pytest.raises(KilledError):  # the fifth execution, batches 9 and 10
        train(tmp_path / "cut", kill_at(5, raise_killed), steps_per_execution=2)
    assert_same(train(tmp_path / "cut", steps_per_execution=2), whole)


def test_early_stopping_within_a_resumed_epoch_stops(tmp_path):
    def stop(batch, logs):
        model.stop_training = True

    with pytest.raises(KilledError):
        train(tmp_path, kill_at(3, raise_killed))
    model = make_model()
    _, history = train(tmp_path, keras.callbacks.LambdaCallback(on_epoch_end=stop), model=model)
    assert history.epoch == [0]


def test_bfloat16_and_loss_scale(tmp_path):
    def mixed():
        layer = keras.layers.Dense(2, dtype="bfloat16")
        model = keras.Sequential([keras.Input((3,)), layer])
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9))
        model.compile(optimizer, "mse")
        return model

    saved = mixed()
    saved.fit(
        stream(0),
        steps_per_epoch=3,
        shuffle=False,
        verbose=0,
        callbacks=[TrainingCheckpoint(tmp_path)],
    )
    restored = mixed()
    assert TrainingCheckpoint(tmp_path).restore(restored, batch_of(0)) == 3
    for value, expected in zip(state(restored), state(saved), strict=True):
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)


def test_keeps_the_newest_files(finished):
    names = sorted(path.name for path in finished.iterdir())
    assert names == ["step-0000000016.npz", "step-0000000018.npz"]


def test_sigkill_in_mid_epoch(tmp_path, whole):
    """A process that dies, and another that goes on; the same numbers as here, in a third."""
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_checkpoints as t\n"
        "die = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
        "t.train(sys.argv[2], t.kill_at(10, die))\n"
    )
    here = pathlib.Path(__file__).parent
    child = subprocess.run([sys.executable, "-c", code, here, tmp_path], env=os.environ)
    assert child.returncode == -signal.SIGKILL
    assert [path.name for path in sorted(tmp_path.glob("*.npz"))][-1] == "step-0000000008.npz"
    assert_same(train(tmp_path), whole)


def test_damage_anywhere_is_found_or_harmless(finished):
    path = max(finished.glob("*.npz"))
    model = make_model()
    TrainingCheckpoint(finished).restore(model, batch_of(0))
    expected = state(model)
    sound = path.read_bytes()
    found = 0
    for position in range(0, len(sound), len(sound) // 31):
        damaged = bytearray(sound)
        damaged[position] ^= 64
        path.write_bytes(damaged)
        model = make_model()
        try:
            TrainingCheckpoint(finished).restore(model, batch_of(0))
        except ValueError as error:
            found += 1
            assert str(path) in str(error)
        else:
            for value, sound_value in zip(state(model), expected, strict=True):
                np.testing.assert_array_equal(value, sound_value)
    assert found > 10


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_damaged_file_is_named(finished, content):
    path = max(finished.glob("*.npz"))
    path.write_bytes(path.read_bytes()[:-1000] if content is None else content)
    with pytest.raises(ValueError, match=f"{path.name} is damaged, or not a training checkpoint"):
        TrainingCheckpoint(finished).restore(make_model(), batch_of(0))


def test_the_intact_file_before_a_damaged_one_can_be_asked_for(finished, whole):
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


def test_unfinished_file_is_no_checkpoint(tmp_path, whole):
    with pytest.raises(KilledError):
        train(tmp_path, kill_at(5, raise_killed))
    (tmp_path / "unfinished").write_bytes(b"half")
    assert_same(train(tmp_path), whole)


def test_file_of_another_model(finished):
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


@pytest.mark.parametrize("form", ["dataset", "spec", "keras"])
def test_restore_reads_nothing_from_a_dataset_or_its_spec(finished, form):
    spec = (
        tf.TensorSpec((None, 3), "float32"),
        tf.TensorSpec((None, 1), "float32"),
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


def test_numpy_numbers_among_the_logs_and_counts(tmp_path):
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
def test_counts_must_be_positive(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer, got "):
        TrainingCheckpoint(tmp_path, **{name: value})


def test_fit_must_continue_where_the_file_ends(tmp_path):
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
def test_steps_per_epoch_must_be_a_multiple(tmp_path):
    model = make_model(steps_per_execution=4)
    with pytest.raises(ValueError, match="must be a multiple of steps_per_execution=4, got 6"):
        model.fit(
            stream(0),
            steps_per_epoch=6,
            shuffle=False,
            verbose=0,
            callbacks=[TrainingCheckpoint(tmp_path)],
        )


def test_restore_needs_a_compiled_model(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="`model` must be compiled before it is restored"):
        TrainingCheckpoint(tmp_path).restore(model, batch_of(0))


def test_record_is_readable_json(finished):
    with np.load(max(finished.glob("*.npz"))) as file:
        record = json.loads(file["header"].tobytes())["record"]
    assert (record["step"], record["steps_per_epoch"], len(record["logs"])) == (18, 6, EPOCHS)
