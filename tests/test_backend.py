"""The loop over time steps, its gradient under XLA, shared graph functions, and devices."""

import dataclasses
import gc

import keras
import numpy as np
import pytest
from keras import ops

from keras_attn import backend, layers
from keras_attn.ops import dense


def decay(inputs, factor):
    """h_t = factor h_{t-1} + x_t, and its square."""

    def step(row, states):
        state = factor * states[0] + row
        return (state, state**2), [state]

    return backend.recur(step, inputs, [ops.zeros_like(inputs[:, 0])])


@pytest.mark.parametrize("shape", [(2, 5, 3), (5, 2, 3), (3, 1, 2)])
def test_recur_equals_the_recurrence_in_numpy(shape):
    inputs, state, expected = np.random.default_rng(0).normal(size=shape), 0.0, []
    for t in range(shape[1]):
        state = 0.5 * state + inputs[:, t]
        expected.append(state)
    states, squares = decay(ops.convert_to_tensor(inputs, "float32"), 0.5)
    np.testing.assert_allclose(ops.convert_to_numpy(states), np.stack(expected, 1), atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(squares), np.stack(expected, 1) ** 2, atol=1e-5)


@pytest.mark.backends("tensorflow", reason="XLA of TensorFlow")
def test_the_gradient_of_recur_compiles_with_xla():
    import tensorflow as tf

    factor = tf.Variable(0.5)

    @tf.function(jit_compile=True)
    def gradient(inputs):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(decay(inputs, factor)[0])
        return tape.gradient(total, factor)

    # h3 = x3 + f x2 + f^2 x1 and h2 = x2 + f x1: the derivative of their sum is 1 + (1 + 2 f).
    np.testing.assert_allclose(gradient(tf.ones((1, 3, 1))), 3.0, rtol=1e-6)


def _functions(run, *shapes):
    """The names of the functions in the graph of `run`, and the graph's function."""
    import tensorflow as tf

    signature = [tf.TensorSpec(shape, "float32") for shape in shapes]
    concrete = tf.function(run, input_signature=signature).get_concrete_function()
    library = concrete.graph.as_graph_def().library.function
    return [function.signature.name for function in library], concrete


@pytest.mark.backends("tensorflow", reason="graphs are TensorFlow's")
def test_equal_calls_share_one_graph_function():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    kernels = [tf.constant(rng.normal(size=(3, 3)), "float32") for _ in range(4)]

    def run(x):
        for kernel in kernels:
            x = dense(x, kernel, None, ops.sin)
        return dense(x, kernels[0], tf.ones(3), ops.tanh)

    names, concrete = _functions(run, (None, None, 3))
    assert len(names) == 2  # two activations
    for batch, length in ((2, 5), (1, 1), (3, 0)):
        x = rng.normal(size=(batch, length, 3)).astype("float32")
        np.testing.assert_allclose(concrete(tf.constant(x)), run(x), atol=1e-6)


@pytest.mark.backends("tensorflow", reason="graphs are TensorFlow's")
def test_graphs_share_a_function_as_long_as_one_of_them_lives():
    import tensorflow as tf

    traced = []

    def double(x):
        traced.append(x.shape)
        return 2 * x

    @tf.function
    def looped(x):
        return tf.while_loop(lambda x: x[0] < 8.0, lambda x: backend.traced_once(double, 1, x), [x])

    with tf.device("CPU:1"):  # of the call, not of the function
        _, first = _functions(lambda x: backend.traced_once(double, 1, x), (2,))
    x = tf.constant([1.0, 3.0])
    np.testing.assert_allclose(looped(x), [[8.0, 24.0]])
    assert len(traced) == 1
    (function,) = first.graph.as_graph_def().library.function
    assert {node.device for node in function.node_def} == {""}
    del first, looped
    keras.backend.clear_session()
    gc.collect()
    assert len(_functions(lambda x: backend.traced_once(double, 1, x), (2,))[0]) == 1
    assert len(traced) == 2


class Rounds(keras.layers.Layer):
    """An activation with another result in inference."""

    def call(self, inputs, training=None):
        return inputs if training else ops.round(inputs)


class Swish:
    """An activation that changes."""

    beta = 1.0

    def __call__(self, inputs):
        return inputs * ops.sigmoid(self.beta * inputs)


@dataclasses.dataclass
class Scaled:
    """An activation that cannot be hashed."""

    scale: float = 2.0

    def __call__(self, inputs):
        return self.scale * inputs


def feed_forward(activation):
    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, layers.FeedForward(32, activation=activation)(inputs))
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    return model, np.random.default_rng(0).normal(size=(4, 5, 8)).astype("float32")


@pytest.mark.backends("tensorflow", reason="graphs are TensorFlow's")
@pytest.mark.parametrize("activation", [Rounds(), Scaled()], ids=["Rounds", "Scaled"])
def test_an_activation_has_the_mode_of_its_graph(activation):
    model, x = feed_forward(activation)
    losses = model.fit(x, x, validation_data=(x, x), verbose=0).history
    for name, training in (("loss", True), ("val_loss", False)):
        expected = np.mean((model(x, training=training) - x) ** 2)
        assert losses[name] == pytest.approx([expected], rel=1e-5)


@pytest.mark.backends("tensorflow", reason="graphs are TensorFlow's")
def test_an_activation_that_changes_is_traced_again():
    activation = Swish()
    model, x = feed_forward(activation)
    np.testing.assert_allclose(model.predict(x, verbose=0), model(x), atol=1e-6)
    activation.beta = 9.0
    model.compile(jit_compile=False)  # the graphs of before live on for a while
    np.testing.assert_allclose(model.predict(x, verbose=0), model(x), atol=1e-6)


@pytest.mark.backends("tensorflow", reason="graphs are TensorFlow's")
def test_a_function_with_captured_tensors_is_not_shared():
    import tensorflow as tf

    slope = tf.Variable(2.0)

    def run(x):
        shift = tf.reduce_sum(x)
        first = backend.traced_once(lambda x: x * slope, "slope", x)
        return backend.traced_once(lambda x: x + shift, "shift", first)

    names, concrete = _functions(run, (2,))
    assert not names
    np.testing.assert_allclose(concrete(tf.constant([1.0, 2.0])), [5.0, 7.0])
    slope.assign(3.0)
    np.testing.assert_allclose(concrete(tf.constant([1.0, 2.0])), [6.0, 9.0])


@pytest.mark.backends("jax", reason="how JAX places computations")
def test_the_device_of_a_computation_on_jax(monkeypatch):
    """On a machine whose default is said to be a GPU."""
    import jax

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    cpu, rows = jax.devices("cpu")[0], jax.numpy.ones(3)
    seen = []
    look = jax.jit(lambda x: seen.append(backend.device_of(x)) or x)
    look(rows)
    assert (backend.device_of(rows), seen) == ("gpu", ["gpu"])
    assert backend.device_of(jax.device_put(rows, cpu)) == "cpu"
    for scope in (jax.default_device(cpu), jax.default_device("cpu"), keras.device("cpu")):
        with scope:
            look(jax.numpy.ones(3 + len(seen)))
            assert (backend.device_of(rows), seen[-1]) == ("cpu", "cpu")
    mesh = keras.distribution.DeviceMesh((8,), ["batch"], [f"cpu:{i}" for i in range(8)])
    with keras.distribution.DataParallel(mesh).scope():
        assert backend.device_of(rows) == "cpu"


@pytest.mark.backends("tensorflow", reason="how TensorFlow places computations")
def test_the_device_of_a_computation_on_tensorflow(monkeypatch):
    """On a machine that is said to have a GPU."""
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert backend.device_of(tf.ones(3)) == "cpu"  # where it is
    with tf.Graph().as_default():
        assert backend.device_of(tf.zeros(3)) == "gpu"
        with tf.device("CPU:0"):
            assert backend.device_of(tf.zeros(3)) == "cpu"
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with tf.Graph().as_default():
        assert backend.device_of(tf.zeros(3)) == "cpu"


@pytest.mark.backends("torch", reason="how torch places computations")
def test_the_device_of_a_computation_on_torch(monkeypatch):
    """On a machine that is said to have a GPU."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert backend.device_of(torch.ones(3)) == "cpu"
    assert backend.device_of(torch.ones(3, device="meta")) == "meta"


@pytest.mark.backends("torch", reason="torch has generators of its own")
def test_generators_without_a_state_stay_as_they_are():
    """A file of another backend has none."""
    before = backend.generator_states()["torch_cpu"]
    backend.assign_generator_states({"keras": np.array([1, 2])})
    np.testing.assert_array_equal(backend.generator_states()["torch_cpu"], before)
