"""Packed rows against the same sequences padded, one per row."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_attn import data, layers, models
from keras_attn.models.packing import packed
from tests.backend import arrays, call_with, computed, gradients, randomize

V, D, N, F, L, T, S, C = 23, 12, 3, 31, 7, 11, 3, 5
SIZE = models.sizes.BertSize(2, D, N, F, vocabulary_size=V, max_length=L, dropout=0.0)
RNG = np.random.default_rng(0)
ROWS = [[3, 5, 2], [7, 4]]  # the lengths of the sequences in each row
SIZES = [size for row in ROWS for size in row]
REAL = np.array([[True, True, True], [True, True, False]])  # [B, S]


def ones_and_zeros(*shape):
    return RNG.integers(0, 2, shape).astype("int32")


PADDED = {  # one sequence per row
    "token_ids": RNG.integers(0, V, (len(SIZES), L)).astype("int32"),
    "segment_ids": ones_and_zeros(len(SIZES), L),
    "padding_mask": np.arange(L) < np.array(SIZES)[:, None],
}
SHOWN = PADDED["padding_mask"]


def in_rows(values, filling=0):
    """`[sequences, L]` as `[B, T]`."""
    rows, start = [], 0
    for sizes in ROWS:
        parts = [values[start + i][:size] for i, size in enumerate(sizes)]
        rest = T - sum(sizes)
        rows.append(np.concatenate([*parts, np.full((rest, *values.shape[2:]), filling)]))
        start += len(sizes)
    return np.stack(rows).astype(values.dtype)


def in_slots(values):
    """`[sequences, ...]` as `[B, S, ...]`."""
    slots = np.zeros((*REAL.shape, *values.shape[1:]), values.dtype)
    slots[REAL] = values
    return slots


PACKED = {key: in_rows(values) for key, values in PADDED.items()}
PACKED["sequence_ids"] = in_rows(np.tile(np.arange(1, 6, dtype="int32")[:, None], (1, L)))
PACKED["positions"] = in_rows(np.tile(np.arange(L, dtype="int32"), (5, 1)))
PACKED["first_positions"] = np.array([[0, 3, 8], [0, 7, 0]], "int32")
# One masked position in each sequence, and its position in the packed row.
MASKED = np.array([[1], [4], [0], [6], [2]], "int32")
MASKED_IN_ROWS = in_slots(MASKED)[..., 0] + PACKED["first_positions"]


def encoder(**options):
    model = models.bert.encoder(SIZE, **options)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.3 * RNG.normal(size=variable.shape))
    return model


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )


def inputs_of(model, values):
    return {key: values[key] for key in model.input}


@pytest.mark.slow_on("jax")  # where `fit` below compares the weights
def test_outputs_loss_and_gradients_equal_those_of_padded_rows():
    model = models.bert_tasks.classifier(encoder(num_layers=1), C, dropout=0.0)
    rows = packed(model)
    labels = np.arange(len(SIZES)) % C
    close(arrays(rows(PACKED))[REAL], arrays(model(PADDED)))

    def loss(model, inputs, labels, weights):
        return lambda *w: cross_entropy()(labels, call_with(model, w, inputs=inputs), weights)

    weights = [variable.value for variable in model.trainable_variables]
    padded_loss = loss(model, PADDED, labels, np.ones(len(SIZES), "float32"))
    packed_loss = loss(rows, PACKED, in_slots(labels), REAL.astype("float32"))
    close(arrays(packed_loss(*weights)), arrays(padded_loss(*weights)))
    pairs = zip(gradients(packed_loss, *weights), gradients(padded_loss, *weights), strict=True)
    for actual, expected in pairs:
        assert np.abs(expected).max() > 1e-4 or expected.size == D  # a key's bias has no gradient
        close(actual, expected)


def test_fit_gives_the_same_weights_as_on_padded_rows():
    model = models.bert_tasks.classifier(encoder(), C, dropout=0.0)
    start = model.get_weights()
    labels = np.arange(len(SIZES)) % C

    def fit(trained, inputs, labels, weights=None):
        model.set_weights(start)
        trained.compile(keras.optimizers.SGD(0.1), cross_entropy())
        history = trained.fit(
            inputs, labels, sample_weight=weights, batch_size=len(SIZES), epochs=2, verbose=0
        )
        return history.history["loss"], model.get_weights()

    losses, weights = fit(model, PADDED, labels)
    packed_losses, packed_weights = fit(
        packed(model), PACKED, in_slots(labels), REAL.astype("float32")
    )
    close(packed_losses, losses)
    assert losses[1] < losses[0]
    for actual, expected in zip(packed_weights, weights, strict=True):
        close(actual, expected)


@pytest.mark.slow_on("jax")
def test_a_packed_pretraining_model_equals_padded_rows_and_can_be_reloaded(tmp_path):
    model = models.bert.with_pretraining_heads(encoder())
    expected = arrays(model({**PADDED, "masked_positions": MASKED}))
    rows = packed(model)
    inputs = {**PACKED, "masked_positions": MASKED_IN_ROWS}
    outputs = arrays(rows(inputs))
    close(outputs["masked_lm"][REAL], expected["masked_lm"][:, 0])
    close(outputs["next_sentence"][REAL], expected["next_sentence"])
    rows.save(tmp_path / "rows.keras")
    again = arrays(keras.saving.load_model(tmp_path / "rows.keras")(inputs))
    close(again["next_sentence"], outputs["next_sentence"])


GPT = models.sizes.GptSize(2, D, N, F, vocabulary_size=V, max_length=L)
GPT_POSITIONS = {
    "learned": lambda: None,
    "sinusoids": layers.SinusoidalPositionEncoding,
    "rotary": layers.RotaryEmbedding,
    "alibi": lambda: layers.ALiBi(N),
    "relative": lambda: layers.RelativePositionBias(N, max_distance=5),
}


def modern_bert():
    """With a window shorter than the sequences."""
    size = models.sizes.ModernBertSize(2, D, N, F, V, window=2)
    return randomize(models.modern_bert.encoder(size))


PER_TOKEN = {
    "modern_bert": lambda: models.bert_tasks.tagger(modern_bert(), C),
    "tagger": lambda: models.bert_tasks.tagger(encoder(), C),
    "roberta": lambda: models.bert_tasks.tagger(encoder(padding_id=PADDED["token_ids"][0, 1]), C),
    "gpt_tagger": lambda: models.bert_tasks.tagger(randomize(models.gpt.encoder(GPT)), C),
    **{
        f"gpt_{name}": lambda make=make: models.gpt.decoder(GPT, position=make())
        for name, make in GPT_POSITIONS.items()
    },
}
PER_SEQUENCE = {
    "masked_lm": lambda: models.bert_tasks.masked_lm(encoder()),
    "regressor": lambda: models.bert_tasks.regressor(encoder()),
    "next_sentence": lambda: models.bert_tasks.next_sentence(encoder()),
    "modern_bert": lambda: models.bert_tasks.classifier(modern_bert(), C),
    "first_vector": lambda: on_top(lambda outputs: outputs["sequence_output"][:, 0]),
}


def on_top(make):
    """A model that a user builds on an encoder."""
    inside = encoder()
    return keras.Model(inside.input, keras.layers.Dense(C)(make(inside.output)))


def both_ways(model):
    """Outputs for padded and for packed rows."""
    padded = {**PADDED, "masked_positions": MASKED}
    rows = {**PACKED, "masked_positions": MASKED_IN_ROWS}
    return computed(model, inputs_of(model, padded)), computed(
        packed(model), inputs_of(packed(model), rows)
    )


def cases(builds, *fast):
    """Parameters of a test; JAX compiles two models for each, and some are slow there."""
    return [
        pytest.param(build, id=name, marks=() if name in fast else pytest.mark.slow_on("jax"))
        for name, build in builds.items()
    ]


@pytest.mark.parametrize(
    "build", cases(PER_TOKEN, "modern_bert", "roberta", "gpt_rotary", "gpt_relative")
)
@pytest.mark.slow_on("jax")
def test_outputs_per_token_equal_those_of_padded_rows(build):
    expected, actual = both_ways(build())
    close(actual[PACKED["padding_mask"]], expected[SHOWN])


@pytest.mark.backends("tensorflow", reason="pack_rows gives tensors of TensorFlow")
@pytest.mark.parametrize("name", ["tagger", "gpt_rotary"])
def test_what_pack_rows_gives_is_what_a_packed_model_takes(name):
    """With as many sequences as tokens in a row, every feature has the same shape."""
    model = PER_TOKEN[name]()
    place = np.arange(len(SIZES) * L).reshape(-1, L)
    dataset = tf.data.Dataset.from_tensors((inputs_of(model, PADDED), place))
    dataset = data.pack_rows(dataset, length=T, batch_size=9, max_sequences=T)
    rows, place, _ = next(iter(dataset.as_numpy_iterator()))
    assert rows.keys() == packed(model).input.keys()
    actual, expected = arrays(packed(model)(rows)), arrays(model(inputs_of(model, PADDED)))
    shown = rows["padding_mask"]
    close(actual[shown], expected.reshape(-1, expected.shape[-1])[place[shown]])


@pytest.mark.backends("tensorflow", reason="pack_rows gives tensors of TensorFlow")
def test_the_loss_of_a_regressor_equals_that_of_padded_rows():
    """With as many rows as sequences in a row, labels of a wrong shape would raise no error."""
    model = models.bert_tasks.regressor(encoder(), dropout=0.0)
    labels = np.arange(len(SIZES), dtype="float32")[:, None]
    dataset = tf.data.Dataset.from_tensors((inputs_of(model, PADDED), labels))
    rows = data.pack_rows(dataset, length=L, batch_size=3, max_sequences=3)
    losses = []
    for trained, batches in ((model, dataset), (packed(model), rows)):
        features, values, *weights = next(iter(batches))
        trained.compile("sgd", keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"))
        losses.append(trained.test_on_batch(features, values, *weights))
    assert values.shape == (3, 3, 1)
    close(losses[1], losses[0])


@pytest.mark.parametrize("build", cases(PER_SEQUENCE, "masked_lm", "next_sentence", "modern_bert"))
def test_outputs_per_sequence_equal_those_of_padded_rows(build):
    expected, actual = both_ways(build())
    close(actual[REAL], expected.reshape(len(SIZES), -1))


def test_encoder_outputs_equal_those_of_padded_rows():
    expected, actual = both_ways(encoder())
    close(actual["sequence_output"][PACKED["padding_mask"]], expected["sequence_output"][SHOWN])
    close(actual["pooled_output"][REAL], expected["pooled_output"])


REFUSED = {
    "span": (
        lambda: models.bert_tasks.span(encoder()),
        "got the layer 'span', a SpanHead",
    ),
    "multiple_choice": (
        lambda: models.bert_tasks.multiple_choice(encoder()),
        "got the layer 'bert_encoder', a Functional",
    ),
    "classifier_mean": (
        lambda: models.bert_tasks.classifier(encoder(), C, pooling="mean"),
        "got the layer 'pooling', a SequencePooling",
    ),
    "classifier_last": (
        lambda: models.bert_tasks.classifier(models.gpt.encoder(GPT), C),
        "got the layer 'pooling', a SequencePooling",
    ),
    "embedder": (
        lambda: models.bert_tasks.embedder(encoder(), pooling="first"),
        "got the layer 'pooling', a SequencePooling",
    ),
    "transformer": (
        lambda: models.transformer.encoder_decoder("transformer_tiny", vocabulary_size=V),
        "got the encoder-decoder 'transformer'",
    ),
    "rnn": (
        lambda: models.rnn_attention.encoder_decoder(V, embedding_dim=3, units=5),
        "got the encoder-decoder 'rnn_attention'",
    ),
    "a_mean_of_a_user": (
        lambda: on_top(lambda outputs: keras.ops.mean(outputs["sequence_output"], axis=1)),
        "got the operation 'mean.*', a Mean",
    ),
    "the_last_vector": (
        lambda: on_top(lambda outputs: outputs["sequence_output"][:, -1]),
        "must take the first vector of a sequence or all, got 'get_item",
    ),
    "packed": (lambda: packed(encoder()), "got 'bert_encoder_packed', packed already"),
    "another": (lambda: keras.Sequential([keras.Input((3,))], name="other"), "got the Sequential"),
}


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_would_mix_sequences_raises(build, message):
    with pytest.raises(ValueError, match=message):
        packed(build())
