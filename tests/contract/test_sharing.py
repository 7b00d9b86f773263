"""An object shared by several layers stays shared after saving and cloning."""

import keras
import numpy as np
import pytest
from keras import tree

from keras_attn import layers
from tests.backend import computed

B, T, S, D, DV, V, N = 2, 5, 7, 12, 11, 17, 3


@keras.saving.register_keras_serializable("tests")
class Joined(keras.layers.Layer):
    """`W [c; h]`."""

    def build(self, shapes):
        self.kernel = self.add_weight(shape=(shapes[0][-1] + shapes[1][-1], D), name="kernel")

    def call(self, inputs):
        return keras.ops.matmul(keras.ops.concatenate(inputs, axis=-1), self.kernel)

    def compute_output_shape(self, shapes):
        return (*shapes[0][:-1], D)


def _relative(**options):
    return layers.RelativePositionBias(N, num_buckets=8, initializer="normal", **options)


def _encoder_blocks():
    inputs, position = keras.Input((None, D)), _relative()
    outputs = inputs
    for _ in range(3):
        outputs = layers.TransformerEncoderBlock(N, 8, position=position)(outputs)
    return inputs, outputs


def _attention_of_every_kind():
    inputs, context, position = keras.Input((None, D)), keras.Input((None, D)), _relative()
    outputs = layers.MultiHeadSelfAttention(N, position=position)(inputs)
    outputs = layers.MultiHeadCrossAttention(N, position=position)(outputs, context)
    outputs = layers.MultiHeadAttention(N, 4, position=position)(outputs, context)
    return [inputs, context], layers.TransformerDecoderBlock(N, 8, position=position)(
        outputs, context
    )


def _embeddings():
    ids, others = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    position = layers.LearnedPositionEmbedding(9)
    first = layers.BertEmbedding(V, D, position=position)(ids)
    second = layers.BertEmbedding(V, D, position=position)(others)
    return [ids, others], position(first + second)  # at the top of the model too


def _decoder_cells():
    inputs, memory = keras.Input((None, D)), keras.Input((None, DV))
    attention = layers.BahdanauAttention(4)
    outputs = inputs
    for _ in range(2):
        cell = keras.layers.GRUCell(D)
        cell = layers.AttentionDecoderCell(cell, attention)
        outputs = layers.AttentionDecoder(cell)(outputs, memory)
        outputs = keras.layers.Dense(D)(outputs)
    return [inputs, memory], outputs


def _one_cell():
    inputs, memory = keras.Input((None, D)), keras.Input((None, DV))
    cell = layers.AttentionDecoderCell(
        keras.layers.LSTMCell(8), layers.LuongAttention(D), "current"
    )
    outputs = layers.AttentionDecoder(cell)(inputs, memory)
    return [inputs, memory], layers.AttentionDecoder(cell)(outputs, memory)


def _combinations():
    query, memory = keras.Input((None, D)), keras.Input((None, D))
    combine = Joined()
    outputs = layers.LuongAttention(combine=combine)(query, memory)
    return [query, memory], layers.LuongAttention(combine=combine)(outputs, memory)


def _head():
    inputs, labels = keras.Input((None, D)), keras.Input((None,), dtype="int32")
    matrix = keras.Input(batch_shape=(V, D))
    head = layers.LanguageModelHead(norm="layer", use_bias=True)
    losses = layers.LinearCrossEntropy(head)(inputs, matrix, labels)
    return [inputs, matrix, labels], [head(inputs, matrix), losses]


ALIKE = pytest.mark.slow_on("jax")  # saving and cloning are the same on every backend
MODELS = (
    pytest.param(_encoder_blocks, marks=ALIKE),
    _attention_of_every_kind,
    pytest.param(_embeddings, marks=ALIKE),
    _decoder_cells,
    pytest.param(_one_cell, marks=ALIKE),
    pytest.param(_combinations, marks=ALIKE),
    pytest.param(_head, marks=ALIKE),
)


def model_of(build):
    model = keras.Model(*build())
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    return model


def inputs_of(model):
    rng = np.random.default_rng(1)

    def draw(tensor):
        lengths = iter((T, T))
        shape = [B if i == 0 else next(lengths) for i, n in enumerate(tensor.shape) if n is None]
        shape += [n for n in tensor.shape if n is not None]
        if "int" in tensor.dtype:
            return rng.integers(0, V, shape).astype("int32")
        return rng.normal(size=shape).astype("float32")

    return tree.map_structure(draw, model.input)


def assert_equal(one, other):
    inputs = inputs_of(one)
    have, want = tree.flatten(computed(one, inputs)), tree.flatten(computed(other, inputs))
    for own, expected in zip(have, want, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", MODELS)
def test_a_shared_object_stays_shared_after_loading(build, tmp_path):
    model = model_of(build)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert len(again.weights) == len(model.weights)
    assert_equal(again, model)
    again.save(tmp_path / "again.keras")
    assert_equal(keras.models.load_model(tmp_path / "again.keras"), model)


@pytest.mark.parametrize("build", MODELS)
def test_a_shared_object_stays_shared_in_a_clone(build):
    model = model_of(build)
    clone, other = keras.models.clone_model(model), keras.models.clone_model(model)
    assert len(clone.weights) == len(model.weights)
    clone.set_weights(model.get_weights())
    assert_equal(clone, model)
    everything = [*model.weights, *clone.weights, *other.weights]
    assert len({id(weight) for weight in everything}) == len(everything)


def test_separate_objects_of_one_name_stay_separate(tmp_path):
    inputs = keras.Input((None, D))
    outputs = inputs
    for _ in range(2):  # with the same name
        block = layers.TransformerEncoderBlock(N, 8, position=_relative(name="position"))
        outputs = block(outputs)
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for again in (loaded, keras.models.clone_model(model)):
        assert len(again.weights) == len(model.weights)
    assert_equal(loaded, model)
