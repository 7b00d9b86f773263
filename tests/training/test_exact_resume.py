"""A run interrupted anywhere and resumed ends as an uninterrupted run."""

import itertools

import keras
import numpy as np
import pytest

from keras_attn.layers import TransformerEncoderBlock
from keras_attn.training import TrainingCheckpoint
from tests.training.runs import (
    EPOCHS,
    KINDS,
    STEPS,
    KilledError,
    assert_same,
    batch_of,
    contents,
    kill_at,
    make_model,
    raise_killed,
    run_in_child,
    state,
    stream,
    train,
)

several_steps = pytest.mark.backends(
    "tensorflow", "jax", reason="Keras on torch allows only one step per execution"
)


# within an epoch (as in the tests of files, below), at its last batch (whose file comes after the
# validation), and in the next
@pytest.mark.parametrize(
    "killed", [6, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 5, 11))]
)
def test_a_resumed_run_equals_an_uninterrupted_run(tmp_path, whole, killed):
    with pytest.raises(KilledError):
        train(tmp_path, kill_at(killed, raise_killed))
    assert_same(train(tmp_path), whole)


@pytest.mark.slow_on("tensorflow")
def test_a_run_interrupted_twice_in_one_epoch_equals_an_uninterrupted_run(tmp_path, whole):
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
class GlobalNoise(keras.layers.Layer):
    """Adds noise from Keras' global seed generator, which no layer owns."""

    def call(self, inputs, training=False):
        noise = keras.random.normal(keras.ops.shape(inputs)) if training else 0.0
        return inputs + noise


def global_noise():
    model = keras.Sequential([keras.Input((3,)), GlobalNoise(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def low_rank():
    """LoRA added to a trained model: the kernels are frozen, the adapters are new."""
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


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(low_rank, marks=pytest.mark.slow_on("tensorflow")),
        pytest.param(
            global_noise,
            marks=pytest.mark.backends("tensorflow", "torch", reason="JAX requires a seed there"),
        ),
    ],
)
def test_lora_weights_and_global_seeds_are_restored(tmp_path, make):
    whole = train(tmp_path / "whole", make=make)
    with pytest.raises(KilledError):
        train(tmp_path / "cut", kill_at(9, raise_killed), make=make)
    assert_same(train(tmp_path / "cut", make=make), whole)


@several_steps
def test_a_run_with_several_steps_per_execution_is_resumed_exactly(tmp_path):
    whole = train(tmp_path / "whole", steps_per_execution=2)
    with pytest.raises(KilledError):  # the fifth execution, batches 9 and 10
        train(tmp_path / "cut", kill_at(5, raise_killed), steps_per_execution=2)
    assert_same(train(tmp_path / "cut", steps_per_execution=2), whole)


ONE_STEP = pytest.param(1, marks=pytest.mark.slow_on("tensorflow"))


@pytest.mark.parametrize("execution", [ONE_STEP, pytest.param(2, marks=several_steps)])
def test_a_run_stopped_by_a_callback_within_an_epoch_is_resumed_exactly(tmp_path, execution):
    """Twice in the second epoch, where no file was due."""

    def stop():
        limit.model.stop_training = True

    whole = train(tmp_path / "whole", steps_per_execution=execution)
    for steps, batches in ((8, 8), (10, 2)):
        limit = kill_at(batches // execution, stop)
        _, history = train(tmp_path / "cut", limit, every=100, steps_per_execution=execution)
        assert history.epoch == [0, 1]
        assert history.history["loss"][0] == whole[1].history["loss"][0]
        assert TrainingCheckpoint(tmp_path / "cut").restore(make_model(), batch_of(0)) == steps
    assert_same(train(tmp_path / "cut", steps_per_execution=execution), whole)


def test_a_run_whose_data_ended_within_an_epoch_is_resumed_exactly(tmp_path, whole):
    keras.utils.set_random_seed(0)
    model, checkpoint = make_model(), TrainingCheckpoint(tmp_path, every=3)
    options = {
        "steps_per_epoch": STEPS,
        "epochs": EPOCHS,
        "validation_data": batch_of(1000),
        "callbacks": [checkpoint],
        "shuffle": False,
        "verbose": 0,
    }
    data = (batch for batch in itertools.islice(stream(0), 10))
    with pytest.warns(UserWarning, match="Your input ran out of data; interrupting training"):
        model.fit(data, **options)
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "step-0000000009.npz"
    with pytest.raises(ValueError, match="must hold no checkpoint unless restore is called"):
        model.fit(stream(10), **options)
    assert_same(train(tmp_path), whole)


def test_early_stopping_within_a_resumed_epoch_stops(tmp_path, whole):
    def stop(batch, logs):
        model.stop_training = True

    with pytest.raises(KilledError):
        train(tmp_path, kill_at(3, raise_killed))
    model = make_model()
    _, history = train(tmp_path, keras.callbacks.LambdaCallback(on_epoch_end=stop), model=model)
    assert history.epoch == [0]
    assert_same(train(tmp_path), whole)


def test_an_unfinished_file_is_removed_and_files_of_others_stay(tmp_path, whole):
    with pytest.raises(KilledError):
        train(tmp_path, kill_at(5, raise_killed))
    (tmp_path / ".step-unfinished").write_bytes(b"half")
    names = ["step-best.npz", "step-0000000004 (1).npz", "step-4.npz", "step-.npz", "unfinished"]
    for name in names:
        (tmp_path / name).write_text("mine")
    (tmp_path / "step-0000000099.npz").mkdir()
    assert_same(train(tmp_path), whole)
    assert [(tmp_path / name).read_text() for name in names] == ["mine"] * 5
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in names) == [
        "step-0000000016.npz",
        "step-0000000018.npz",
        "step-0000000099.npz",
    ]


@pytest.mark.slow_on("jax")  # what is saved and restored is the same as in one process
def test_a_process_killed_within_an_epoch_is_resumed_exactly(tmp_path, whole):
    """One process is killed, another resumes; the result equals an uninterrupted third."""
    run_in_child(tmp_path, "plain", kill=10)
    assert [path.name for path in sorted(tmp_path.glob("*.npz"))][-1] == "step-0000000008.npz"
    assert_same(train(tmp_path), whole)


NOT_ON_TORCH = ("steps_per_execution", "two_devices", "two_devices_and_all")


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=several_steps if kind in NOT_ON_TORCH else ()) for kind in KINDS],
)
def test_every_kind_of_training_killed_twice_is_resumed_exactly(tmp_path, kind):
    run_in_child(tmp_path / "whole", kind)
    for kill in (5, 4, 0):
        run_in_child(tmp_path / "cut", kind, kill)
    (arrays, logs), (expected, whole_logs) = map(contents, (tmp_path / "cut", tmp_path / "whole"))
    assert arrays.keys() == expected.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(value, expected[name])
    # Sums of TensorFlow's replicas are added before saving and split again after restoring.
    replicated = kind.startswith("two_devices") and keras.backend.backend() == "tensorflow"
    for epoch, expected in zip(logs, whole_logs, strict=True):
        assert epoch == (pytest.approx(expected, rel=1e-6) if replicated else expected)


def test_bfloat16_weights_and_the_loss_scale_are_restored(tmp_path):
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
