"""TokenEmbedding against its matrix and Keras' Embedding."""

import keras
import numpy as np
import pytest

from keras_attn import layers
from tests.backend import arrays, gradients, layer_gradients

IDS = np.array([[3, 0, 10], [0, 7, 7]], "int32")


def test_outputs_equal_keras_embedding():
    ours, theirs = layers.TokenEmbedding(11, 4, mask_zero=True), keras.layers.Embedding(11, 4)
    theirs.build()
    vectors, matrix = ours(IDS, return_matrix=True)
    theirs.set_weights([arrays(matrix)])
    np.testing.assert_array_equal(arrays(vectors), arrays(theirs(IDS)))
    np.testing.assert_array_equal(arrays(ours.compute_mask(IDS)), IDS != 0)
    assert layers.TokenEmbedding(11, 4).compute_mask(IDS) is None


def test_the_scale_applies_to_the_vectors_and_not_to_the_matrix():
    layer = layers.TokenEmbedding(11, 4, scale=3.0)
    vectors, matrix = arrays(layer(IDS, return_matrix=True))
    np.testing.assert_allclose(vectors, 3 * matrix[IDS], rtol=1e-6)


def test_a_tied_matrix_gets_the_gradients_of_both_uses():
    layer = layers.TokenEmbedding(11, 4, scale=3.0)
    layer.build()
    # The weights that `loss_of` multiplies the vectors and the matrix by.
    seen, tied = (
        np.random.default_rng(i).normal(size=s) for i, s in ((0, (2, 3, 4)), (1, (11, 4)))
    )
    np.add.at(tied, IDS, 3 * seen)
    (found,) = layer_gradients(layer, {"token_ids": IDS}, return_matrix=True).values()
    np.testing.assert_allclose(found, tied, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", ["token", "position"])
def test_gradients_of_a_frequent_row_are_summed_in_float32(layer):
    """A sum of ones stands still at 256 in bfloat16, and at 2,048 in float16."""
    count = 5000
    if layer == "token":
        embedding = layers.TokenEmbedding(3, 2, dtype="mixed_bfloat16")
        embedding.build()
        weight, inputs, options = embedding.embeddings, np.full((1, count), 1), {}
    else:
        embedding = layers.LearnedPositionEmbedding(3, dtype="mixed_bfloat16")
        weight, inputs = None, np.zeros((1, count, 2), "float32")
        options = {"positions": np.full((1, count), 1)}
        embedding.build(inputs.shape)
        weight = embedding.table

    def loss(value):
        with keras.StatelessScope(state_mapping=[(weight, value)]):
            return keras.ops.sum(keras.ops.cast(embedding(inputs, **options), "float32"))

    (found,) = gradients(loss, np.zeros((3, 2), "float32"))
    np.testing.assert_allclose(found, [[0, 0], [count, count], [0, 0]], rtol=1e-6)


def test_a_tied_matrix_stays_tied_after_reloading(tmp_path):
    tokens = keras.Input((None,), dtype="int32")
    vectors, matrix = layers.TokenEmbedding(11, 4)(tokens, return_matrix=True)
    model = keras.Model(tokens, layers.LanguageModelHead()(vectors, matrix))
    assert len(model.trainable_weights) == 1
    model.save(tmp_path / "tied.keras")
    again = keras.models.load_model(tmp_path / "tied.keras")
    assert len(again.trainable_weights) == 1
    again.trainable_weights[0].assign(2 * again.trainable_weights[0])
    np.testing.assert_allclose(arrays(again(IDS)), 4 * arrays(model(IDS)), rtol=1e-5)


def test_invalid_input_raises():
    with pytest.raises(ValueError, match="`input_dim` must be a positive integer, got 0"):
        layers.TokenEmbedding(0, 4)
    with pytest.raises(ValueError, match=r"`token_ids` must be in \[0, 11\), got 11"):
        layers.TokenEmbedding(11, 4)(IDS + 1)
