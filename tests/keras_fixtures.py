"""Fixtures that need Keras, and the devices of TensorFlow: a plugin, see tests/conftest.py."""

import contextlib
from unittest import mock

import keras
import pytest

from tests import shapes

TENSORFLOW = keras.backend.backend() == "tensorflow"
if TENSORFLOW:  # two devices, for the fixture `mirrored`
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )

if keras.backend.backend() == "jax":  # eight devices, before a test changes XLA_FLAGS for a child
    import jax

    jax.devices()


@pytest.fixture(scope="session")
def mirrored():
    """A strategy for two devices, the only one: several in a process would disturb each other."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(autouse=True, scope="session")
def _shapes_in_docstrings_are_checked():
    shapes.install()


@pytest.fixture(autouse=True)
def _same_seed_for_every_test():
    # Nothing draws from TensorFlow's own generator, whose seed would clear all its kernels.
    unused = mock.patch.object(tf.random, "set_seed") if TENSORFLOW else contextlib.nullcontext()
    with unused:
        keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _same_settings_after_every_test():
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
