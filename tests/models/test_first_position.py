"""A model whose last block computes only what is read: the same outputs, less work."""

import keras
import numpy as np
import pytest

from keras_attn import layers
from keras_attn.models import bert, bert_tasks, gpt, modern_bert, parts
from keras_attn.models.first_position import first_position_only
from tests.backend import arrays, randomize

TOKENS = np.random.default_rng(0).integers(1, 50, size=(3, 9)).astype("int32")
BATCH = {
    "token_ids": TOKENS,
    "segment_ids": (TOKENS > 20).astype("int32"),
    "padding_mask": np.arange(9) < np.array([[9], [4], [1]]),
}


def encoder(**options):
    return randomize(bert.encoder("bert_tiny", vocabulary_size=50, **options))


def test_a_classifier_computes_the_first_position_of_its_last_block_alone():
    model = bert_tasks.classifier(encoder(), 3)
    first = first_position_only(model)
    blocks = parts.of(first).encoder.blocks
    assert [parts.outputs(first, block)[0].shape[1] for block in blocks] == [None, 1]
    assert [id(weight) for weight in first.weights] == [id(weight) for weight in model.weights]
    np.testing.assert_allclose(arrays(first(BATCH)), arrays(model(BATCH)), rtol=1e-5, atol=1e-5)


def test_a_loaded_classifier_is_the_same(tmp_path):
    bert_tasks.classifier(encoder(), 3).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    first = first_position_only(model)
    assert first is not model and first_position_only(first) is first
    np.testing.assert_allclose(arrays(first(BATCH)), arrays(model(BATCH)), rtol=1e-5, atol=1e-5)


class Flipped(layers.TransformerEncoderBlock):
    def call(self, inputs, **options):
        return keras.ops.flip(super().call(inputs, **options), axis=1)


def ends_in(block, **given):
    own = encoder()
    hidden = parts.outputs(own, parts.of(own).encoder.blocks[0])[0]
    given = {name: make(own.input["token_ids"]) for name, make in given.items()}
    return keras.Model(own.input, keras.layers.Dense(2)(block(hidden, **given)[:, 0]))


def with_positions():
    block = layers.TransformerEncoderBlock(2, 16, position=layers.RotaryEmbedding(), name="block_1")
    return ends_in(block, positions=lambda ids: keras.ops.cumsum(keras.ops.ones_like(ids), axis=1))


def reads_two_positions():
    own = encoder()
    hidden = own.output["sequence_output"]
    return keras.Model(own.input, keras.layers.Dense(2)(hidden[:, 0] + hidden[:, 1]))


def reads_the_second():
    own = encoder()
    return keras.Model(own.input, keras.layers.Dense(2)(own.output["sequence_output"][:, 1]))


def calls_a_block_twice():
    own = encoder()
    hidden = parts.of(own).encoder.blocks[-1](own.output["sequence_output"])
    return keras.Model(own.input, keras.layers.Dense(2)(hidden[:, 0]))


@pytest.mark.parametrize(
    "make",
    [
        encoder,
        lambda: bert_tasks.tagger(encoder(), 3),
        lambda: bert_tasks.span(encoder()),
        lambda: bert_tasks.multiple_choice(encoder(), 2),
        lambda: bert_tasks.embedder(encoder(), pooling="mean"),
        lambda: bert.with_pretraining_heads(encoder()),
        lambda: modern_bert.encoder("modern_bert_base", vocabulary_size=50, num_layers=1),
        lambda: bert_tasks.classifier(gpt.encoder("gpt_tiny", vocabulary_size=50), 3),
        reads_two_positions,
        reads_the_second,
        calls_a_block_twice,
        with_positions,
        lambda: ends_in(Flipped(2, 16, name="block_1")),
        lambda: keras.Sequential([keras.Input((4, 8)), layers.TransformerEncoderBlock(2, 8)]),
    ],
)
def test_a_model_that_reads_other_positions_stays_as_it_is(make):
    model = make()
    assert first_position_only(model) is model
