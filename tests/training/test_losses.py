"""The losses against numpy in float64, and what we rely on in Keras' own losses."""

import itertools

import keras
import numpy as np
import pytest
from keras.src.backend import set_keras_mask

from keras_attn.training import InfoNCE, SmoothedCrossEntropy
from tests.backend import BACKEND, gradients, tensors

DRAW = np.random.default_rng(5)
LOGITS = DRAW.normal(size=(3, 5, 7)).astype("float32")
LABELS = DRAW.integers(1, 7, (3, 5))
LABELS[0, 2:] = LABELS[2, 4] = 0
WEIGHTS = DRAW.uniform(size=(3, 5)).astype("float32")


def one_hot_loss(smoothing):
    """The loss per position by the paper's equation, in float64."""
    logits = LOGITS.astype("float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = (1 - smoothing) * np.eye(7)[LABELS] + smoothing / 7
    return -(target * log_probabilities).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_the_loss_at_each_position_equals_numpy(smoothing):
    loss = SmoothedCrossEntropy(smoothing, reduction=None)(LABELS, LOGITS)
    np.testing.assert_allclose(np.array(loss), one_hot_loss(smoothing), rtol=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_mean_is_over_positions_that_are_not_ignored(weights):
    loss = SmoothedCrossEntropy(0.1, ignore_class=0)(LABELS, LOGITS, weights)
    counts = (LABELS != 0) * (1.0 if weights is None else weights)
    expected = (one_hot_loss(0.1) * counts).sum() / counts.sum()
    np.testing.assert_allclose(float(loss), expected, rtol=1e-5)


def test_an_ignored_label_may_lie_outside_the_vocabulary():
    labels = np.where(LABELS == 0, -100, LABELS)
    loss = SmoothedCrossEntropy(0.1, ignore_class=-100)(labels, LOGITS)
    expected = SmoothedCrossEntropy(0.1, ignore_class=0)(LABELS, LOGITS)
    np.testing.assert_allclose(float(loss), float(expected), rtol=1e-6)


# Eighty losses of ours and of Keras for each case: JAX compiles each operation of each shape.
ON_TORCH = pytest.mark.slow_on("jax")
REDUCTIONS = [None, "sum", "sum_over_batch_size", "mean", "mean_with_sample_weight"]


@pytest.mark.parametrize(
    ("shape", "ignored"),
    [
        ((3,), 0),
        ((3, 5), None),
        pytest.param((3,), None, marks=ON_TORCH),
        pytest.param((3, 5), 0, marks=ON_TORCH),
    ],
)
def test_ranks_of_labels_weights_and_masks_are_squeezed_as_in_keras(shape, ignored):
    labels, logits, weights = (
        array.reshape(15, *array.shape[2:]) for array in (LABELS, LOGITS, WEIGHTS)
    )
    size = int(np.prod(shape))
    labels, weights = labels[:size].reshape(shape), weights[:size].reshape(shape)
    logits, mask = logits[:size].reshape(*shape, 7), weights > 0.3
    labels.flat[0] = 0
    several_labels = [labels, labels[..., None]]
    several_weights = [None, weights, weights[..., None], weights[:, :1] if size > 3 else weights]
    for given, weight, masked, reduction in itertools.product(
        several_labels, several_weights, [False, True], REDUCTIONS
    ):
        loss = SmoothedCrossEntropy(0.0, ignored, reduction)
        theirs = keras.losses.SparseCategoricalCrossentropy(True, ignored, reduction)
        y_pred = keras.ops.convert_to_tensor(logits)
        if masked:
            set_keras_mask(y_pred, keras.ops.convert_to_tensor(mask))
        found = np.array(loss(given, y_pred, weight))
        if weight is not None and weight.ndim == labels.ndim:  # Keras on torch does not broadcast
            weight = weight * np.ones_like(weights) if masked or ignored is not None else weight
        expected = theirs(given, y_pred, weight)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, np.array(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("ignored", [None, 2050])
def test_labels_are_not_rounded_in_half_precision(dtype, ignored):
    labels = np.array([[257], [2049], [2051], [2050]])
    logits = np.zeros((4, 2053), "float32")
    np.put_along_axis(logits, labels, 4.0, axis=1)
    loss = SmoothedCrossEntropy(0.0, ignored, reduction=None, dtype=dtype)
    found = keras.ops.convert_to_numpy(keras.ops.cast(loss(labels, logits), "float32"))
    expected = np.full(4, np.log(2052 + np.exp(4.0)) - 4.0)
    expected[3] = expected[3] if ignored is None else 0.0
    np.testing.assert_allclose(found, expected, rtol=0.02)


@pytest.mark.parametrize("held", [np.nan, np.inf])
@pytest.mark.parametrize("why", ["ignored", "weight", "mask"])
def test_ignored_positions_may_hold_nan_or_infinity(why, held):
    counts = LABELS != 0
    weights = counts.astype("float32") if why == "weight" else None

    def loss(logits):
        if why == "mask":
            set_keras_mask(logits, tensors(counts))
        own = SmoothedCrossEntropy(0.1, ignore_class=0 if why == "ignored" else None)
        return own(LABELS, logits, weights)

    logits = np.where(counts[..., None], LOGITS, held).astype("float32")
    found = float(loss(tensors(logits)))
    np.testing.assert_allclose(found, one_hot_loss(0.1)[counts].mean(), rtol=1e-5)
    (gradient,) = gradients(loss, logits)
    np.testing.assert_allclose(gradient, gradients(loss, LOGITS)[0], atol=1e-7)
    assert gradient[counts].any() and not gradient[~counts].any()


@pytest.mark.parametrize("shape", [(), (1,)], ids=["", "last axis 1"])
@pytest.mark.parametrize("why", ["ignored", "mask"])
def test_weights_of_ignored_positions_may_be_nan(why, shape):
    counts = LABELS != 0
    weights = np.where(counts, 1.0 + np.arange(LABELS.size).reshape(LABELS.shape), np.nan)
    logits = tensors(LOGITS)
    if why == "mask":
        set_keras_mask(logits, tensors(counts))
    loss = SmoothedCrossEntropy(0.1, ignore_class=0 if why == "ignored" else None)
    found = float(loss(LABELS, logits, weights.reshape(*LABELS.shape, *shape).astype("float32")))
    expected = np.average(one_hot_loss(0.1)[counts], weights=weights[counts])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_loss_is_zero_when_every_label_is_ignored():
    loss = SmoothedCrossEntropy(0.1, ignore_class=0)(np.zeros_like(LABELS), LOGITS)
    assert float(loss) == 0.0


def test_the_keras_mask_of_the_logits_is_applied():
    mask = LABELS != 0
    logits = keras.ops.convert_to_tensor(LOGITS)
    set_keras_mask(logits, keras.ops.convert_to_tensor(mask))
    loss = SmoothedCrossEntropy(0.1)(LABELS, logits)
    np.testing.assert_allclose(float(loss), one_hot_loss(0.1)[mask].mean(), rtol=1e-5)


def test_keras_loss_is_the_weighted_mean_over_positions():
    """Pins the reduction that masked-LM training relies on."""
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    expected = (one_hot_loss(0.0) * WEIGHTS).sum() / WEIGHTS.sum()
    np.testing.assert_allclose(float(loss(LABELS, LOGITS, WEIGHTS)), expected, rtol=1e-5)


def test_the_config_restores_the_loss():
    loss = SmoothedCrossEntropy(0.3, ignore_class=2, reduction="sum", name="smooth")
    config = keras.saving.serialize_keras_object(loss)
    restored = keras.saving.deserialize_keras_object(config)
    assert restored.name == "smooth"
    np.testing.assert_allclose(float(restored(LABELS, LOGITS)), float(loss(LABELS, LOGITS)))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_outside_0_to_1_raises(smoothing):
    with pytest.raises(
        ValueError, match=rf"`label_smoothing` must be in \[0, 1\), got {smoothing}"
    ):
        SmoothedCrossEntropy(smoothing)


ROWS, WIDTH = 5, 3
VECTORS = DRAW.normal(size=(ROWS, 4, WIDTH)).astype("float32")
NUMBERS = np.array([7, 2, 7, 9, 2])
UNUSED = np.array([0.5, 1.0, 0.0, 2.0, 1.0], "float32")


def info_nce(vectors, temperature, numbers=None, used=None, symmetric=False):
    """The loss of each row by the paper's equation, candidate by candidate, in float64."""
    vectors = vectors.astype("float64")
    count = len(vectors)
    numbers = np.arange(count) if numbers is None else numbers
    used = np.ones(count, bool) if used is None else used

    def find(row, one, other, hard):
        right = vectors[row, one] @ vectors[row, other]
        wrong = [
            vectors[row, one] @ vectors[another, candidate]
            for another in np.flatnonzero(used)
            for candidate in ([other] if numbers[another] != numbers[row] else []) + hard
        ]
        logits = np.array([right, *wrong]) / temperature
        return np.log(np.exp(logits).sum()) - logits[0]

    losses = np.array([find(row, 0, 1, list(range(2, vectors.shape[1]))) for row in range(count)])
    if symmetric:
        losses = (losses + [find(row, 1, 0, []) for row in range(count)]) / 2
    return losses


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("texts", [2, 4])
@pytest.mark.parametrize("numbers", [None, NUMBERS], ids=["distinct", "numbered"])
def test_info_nce_equals_numpy(numbers, texts, symmetric):
    loss = InfoNCE(0.7, symmetric, reduction=None)
    vectors = VECTORS[:, :texts]
    expected = info_nce(vectors, 0.7, numbers, symmetric=symmetric)
    np.testing.assert_allclose(np.array(loss(numbers, vectors)), expected, rtol=1e-5)
    own = numbers if numbers is None else numbers[:, None]
    each = InfoNCE(0.7, symmetric, reduction=None)(own, vectors, UNUSED[:, None])
    assert tuple(each.shape) == UNUSED.shape
    mean = InfoNCE(0.7, symmetric)(own, vectors, UNUSED[:, None])
    expected = info_nce(vectors, 0.7, numbers, UNUSED > 0, symmetric)
    np.testing.assert_allclose(float(mean), np.average(expected, weights=UNUSED), rtol=1e-5)


@pytest.mark.parametrize("held", [np.nan, np.inf])
def test_rows_of_weight_zero_are_no_negatives_and_may_hold_anything(held):
    def loss(vectors):
        return InfoNCE(0.7, symmetric=True)(NUMBERS, vectors, UNUSED)

    vectors = np.where(UNUSED[:, None, None] > 0, VECTORS, np.float32(held))
    np.testing.assert_allclose(float(loss(tensors(vectors))), float(loss(tensors(VECTORS))))
    (gradient,) = gradients(loss, vectors)
    np.testing.assert_allclose(gradient, gradients(loss, VECTORS)[0], atol=1e-7)
    assert gradient[UNUSED > 0].any() and not gradient[UNUSED == 0].any()


@pytest.mark.parametrize("numbers", [None, [4, 4]], ids=["of one row", "of equal texts"])
def test_a_batch_without_negatives_has_no_loss_and_no_gradient(numbers):
    vectors = VECTORS[: len(numbers or [1]), :2]

    def loss(vectors):
        return InfoNCE(0.05, symmetric=True)(numbers, vectors)

    assert float(loss(tensors(vectors))) == 0.0
    assert not gradients(loss, vectors)[0].any()


@pytest.mark.slow_on("tensorflow")
@pytest.mark.parametrize(
    "policy",
    ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow_on("jax", "tensorflow"))],
)
def test_info_nce_trains_compiled_models_with_and_without_a_last_short_batch(policy):
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((2, WIDTH))
    dense = keras.layers.Dense(WIDTH, kernel_initializer=keras.initializers.RandomNormal(seed=3))
    model = keras.Model(inputs, dense(inputs))
    loss = InfoNCE(0.5, symmetric=True)
    model.compile(keras.optimizers.Adam(0.05), loss, jit_compile=BACKEND != "torch")
    vectors = VECTORS[:, :2]
    first = model.evaluate(vectors, batch_size=2, verbose=0)
    outputs = model.predict(vectors, verbose=0)
    batches = [info_nce(outputs[start : start + 2], 0.5, symmetric=True) for start in (0, 2, 4)]
    np.testing.assert_allclose(first, np.concatenate(batches).mean(), rtol=1e-5)
    # Rows 1 and 4 have the number 2, and are the only ones of the last batch with a weight.
    numbers, weights = np.array([7, 2, 8, 9, 2]), np.ones(ROWS, "float32")
    order, weights[[2, 3]] = [0, 2, 3, 1, 4], [0.0, 0.0]
    history = model.fit(vectors, None, batch_size=2, epochs=20, verbose=0).history["loss"]
    assert history[-1] < history[0]
    found = model.evaluate(
        vectors[order], numbers[order], batch_size=3, sample_weight=weights[order], verbose=0
    )
    np.testing.assert_allclose(found, 0.0, atol=1e-6)


def test_a_temperature_that_is_not_positive_raises():
    for temperature in (0, -0.1, "0.05"):
        with pytest.raises(
            ValueError, match=f"`temperature` must be positive, got {temperature!r}"
        ):
            InfoNCE(temperature)


def test_vectors_and_numbers_of_other_shapes_raise():
    with pytest.raises(
        ValueError, match=r"`y_pred` must have shape \[batch, texts, width\], got shape \(5, 3\)"
    ):
        InfoNCE()(None, VECTORS[:, 0])
    with pytest.raises(
        ValueError, match=r"`y_pred` must hold two texts of a row or more, got shape \(5, 1, 3\)"
    ):
        InfoNCE()(None, VECTORS[:, :1])
    with pytest.raises(ValueError, match=r"`y_true` must have .* = \(5,\), got shape \(4,\)"):
        InfoNCE()(NUMBERS[:4], VECTORS)


def test_the_config_restores_info_nce():
    loss = InfoNCE(0.3, symmetric=True, reduction="sum", name="pairs")
    config = keras.saving.serialize_keras_object(loss)
    restored = keras.saving.deserialize_keras_object(config)
    assert restored.name == "pairs"
    np.testing.assert_allclose(
        float(restored(NUMBERS, VECTORS)), float(loss(NUMBERS, VECTORS)), rtol=1e-6
    )


@pytest.mark.backends("tensorflow", reason="tf.distribute is TensorFlow's")
def test_with_replicas_the_loss_is_the_average_of_their_means(mirrored):
    """Each has one row, with one position that counts in the first and two in the second."""
    x, labels = np.array([[[1.0], [9.0]], [[2.0], [4.0]]]), np.array([[1, 0], [2, 2]])

    def step():
        """The matrix after a step from zeros, where each class has the probability 1/3."""
        inputs = keras.Input((2, 1))
        dense = keras.layers.Dense(3, use_bias=False, kernel_initializer="zeros")
        model = keras.Model(inputs, dense(inputs))
        loss = SmoothedCrossEntropy(0.0, ignore_class=0)
        model.compile(keras.optimizers.SGD(1.0), loss, jit_compile=False)
        model.fit(x, labels, batch_size=2, verbose=0)
        return dense.get_weights()[0][0]

    first, second = np.array([-1.0, 2.0, -1.0]) / 3, np.array([-1.0, -1.0, 2.0]) / 3
    np.testing.assert_allclose(step(), (first + 2 * second + 4 * second) / 3, rtol=1e-6)
    with mirrored.scope():
        found = step()
    np.testing.assert_allclose(found, (first + (2 * second + 4 * second) / 2) / 2, rtol=1e-6)
