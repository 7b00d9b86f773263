"""The loop over steps: nested outputs, any batch and length, and a gradient under XLA."""

import numpy as np
import pytest
from keras import ops

from keras_attn import backend


def decay(inputs, factor):
    """h_t = factor h_{t-1} + x_t, and its square."""

    def step(row, states):
        state = factor * states[0] + row
        return (state, state**2), [state]

    return backend.recur(step, inputs, [ops.zeros_like(inputs[:, 0])])


@pytest.mark.parametrize("shape", [(2, 5, 3), (5, 2, 3), (3, 1, 2)])
def test_it_is_the_recurrence(shape):
    inputs, state, expected = np.random.default_rng(0).normal(size=shape), 0.0, []
    for t in range(shape[1]):
        state = 0.5 * state + inputs[:, t]
        expected.append(state)
    states, squares = decay(ops.convert_to_tensor(inputs, "float32"), 0.5)
    np.testing.assert_allclose(ops.convert_to_numpy(states), np.stack(expected, 1), atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(squares), np.stack(expected, 1) ** 2, atol=1e-5)


@pytest.mark.backends("tensorflow", reason="XLA of TensorFlow")
def test_its_gradient_compiles():
    import tensorflow as tf

    factor = tf.Variable(0.5)

    @tf.function(jit_compile=True)
    def gradient(inputs):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(decay(inputs, factor)[0])
        return tape.gradient(total, factor)

    # h3 = x3 + f x2 + f^2 x1 and h2 = x2 + f x1: the derivative of their sum is 1 + (1 + 2 f).
    np.testing.assert_allclose(gradient(tf.ones((1, 3, 1))), 3.0, rtol=1e-6)
