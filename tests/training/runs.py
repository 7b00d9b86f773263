"""A training run that can be interrupted anywhere, in this process or in a killed child."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np

from keras_attn.training import TrainingCheckpoint

STEPS, EPOCHS = 6, 3
# XLA compiles a step of TensorFlow for seconds; most kinds of training, below, run with it.
FAST = {"jit_compile": False} if keras.backend.backend() == "tensorflow" else {}
XLA = {"jit_compile": "auto"}


def stream(step):
    """Endless batches, each a function of its number."""
    while True:
        yield batch_of(step)
        step += 1


def batch_of(step):
    draw = np.random.default_rng([7, step])
    x = draw.normal(size=(6, 3)).astype("float32")
    weight = draw.integers(0, 2, 6).astype("float32")
    return x, (x.sum(1, keepdims=True) > 0).astype("float32"), weight


def adam(**options):
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 40)
    return keras.optimizers.Adam(schedule, use_ema=True, **options)


def make_model(optimizer=None, dtype="float32", **compile_arguments):
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(11, dtype=dtype)(inputs)
    hidden = keras.layers.Dropout(0.5, dtype=dtype)(hidden)  # no seeds: see `train`
    hidden = keras.layers.GaussianNoise(0.1, dtype=dtype)(hidden)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    draw = np.random.default_rng(2)
    model.set_weights([draw.normal(size=w.shape) for w in model.weights])
    model.compile(
        optimizer or adam(),
        "binary_crossentropy",
        weighted_metrics=["accuracy", keras.metrics.AUC(13, name="auc")],
        **{**FAST, **compile_arguments},
    )
    return model


def scaled(optimizer):
    """With a loss scale that changes during the run."""
    return keras.optimizers.LossScaleOptimizer(optimizer, 2.0**14, dynamic_growth_steps=3)


ema, accumulation = {"ema_overwrite_frequency": 4}, {"gradient_accumulation_steps": 4}
KINDS = {
    "plain": make_model,
    "ema": lambda: make_model(adam(**ema), **XLA),
    "accumulation": lambda: make_model(adam(**accumulation), **XLA),
    "mixed_bfloat16": lambda: make_model(dtype="mixed_bfloat16", **XLA),
    "mixed_float16": lambda: make_model(scaled(adam()), dtype="mixed_float16", **XLA),
    "steps_per_execution": lambda: make_model(steps_per_execution=2, **XLA),
    "two_devices": make_model,
    "two_devices_and_all": lambda: two_devices_and_all(),
}


def two_devices_and_all():
    """All options at once, except those that Keras does not support under tf.distribute."""
    if keras.backend.backend() == "tensorflow":
        return make_model(dtype="mixed_bfloat16")
    optimizer = scaled(adam(**ema, **accumulation))
    return make_model(optimizer, dtype="mixed_float16", steps_per_execution=2)


def devices(kind):
    """The distribution scope of a kind of run."""
    if not kind.startswith("two_devices"):
        return contextlib.nullcontext()
    if keras.backend.backend() == "jax":  # two of eight, see tests/conftest.py
        return keras.distribution.DataParallel(
            devices=keras.distribution.list_devices()[:2]
        ).scope()
    import tensorflow as tf

    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()


class KilledError(Exception):
    pass


def kill_at(step, how):
    """A callback that ends the run after `step` batches, before the last can be saved."""
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


def run_in_child(directory, kind, kill=0):
    """Run a kind of training in a child process, which is killed in batch `kill`."""
    code = "import sys; from tests.training.runs import child; child(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, directory, kind, str(kill)],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == (-signal.SIGKILL if kill else 0), done.stderr[-3000:]


def child(directory, kind, kill):
    killer = kill_at(int(kill), lambda: os.kill(os.getpid(), signal.SIGKILL))
    with devices(kind):
        train(directory, killer, make=KINDS[kind])


def contents(directory):
    """All arrays of the newest file and the logs of its epochs."""
    with np.load(max(pathlib.Path(directory).glob("step-*.npz"))) as file:
        arrays = dict(file)
    record = json.loads(arrays.pop("header").tobytes())["record"]
    assert record["step"] == STEPS * EPOCHS
    return arrays, record["logs"]
