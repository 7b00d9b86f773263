"""Our patches of Keras compute what Keras would without its bug; a bug that we only describe."""

import itertools

import keras
import numpy as np
import pytest

from tests.trainable import BATCH, bert_pretraining, compiled, translator


@pytest.mark.backends("tensorflow", reason="tf.distribute is TensorFlow's")
@pytest.mark.parametrize(
    "make", [bert_pretraining, pytest.param(translator, marks=pytest.mark.slow)]
)
def test_two_replicas_train_as_one_device_does(make, mirrored):
    alone = trained(make, run_eagerly=True)  # faster than tracing a graph
    with mirrored.scope():
        together = trained(make)
    for have, want in zip(together, alone, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


def batches(x, y):
    """The two halves of the batch in turn, endlessly: a lost half changes the result."""
    for half in itertools.cycle((slice(None, BATCH // 2), slice(BATCH // 2, None))):
        yield keras.tree.map_structure(lambda rows, half=half: rows[half], (x, y))


def trained(make, **options):
    """Losses, those of an evaluation and the weights' sums, where the strategy's scope is open."""
    keras.utils.set_random_seed(0)
    _, x, y = given = make(dropout=0.0)
    model = compiled(given, jit_compile=False, **options)
    history = model.fit(batches(x, y), steps_per_epoch=2, epochs=4, shuffle=False, verbose=0)
    evaluated = model.evaluate(x, y, batch_size=BATCH, verbose=0)
    sums = [float(keras.ops.sum(variable**2)) for variable in model.weights]
    return history.history["loss"], np.ravel(evaluated).tolist(), sums


@pytest.mark.backends("tensorflow", reason="a bug of Keras on TensorFlow")
def test_keras_counts_one_batch_too_many_where_their_number_is_unknown():
    """If this fails, Keras was fixed: remove the paragraph in docs/guides/scaling.md."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, {"same": inputs * 1.0, "double": inputs * 2.0})
    model.compile(loss={"same": "mse", "double": "mse"}, jit_compile=False)

    def evaluated(**options):
        ones = np.ones((2, 1), "float32")
        batches = ((ones, {"same": 0 * ones, "double": 0 * ones}) for _ in range(3))
        return model.evaluate(batches, return_dict=True, verbose=0, **options)

    assert evaluated(steps=3) == {"loss": 5.0, "same_loss": 1.0, "double_loss": 4.0}
    with pytest.warns(UserWarning, match="ran out of data"):
        assert evaluated() == {"loss": 5.0, "same_loss": 0.75, "double_loss": 3.0}
