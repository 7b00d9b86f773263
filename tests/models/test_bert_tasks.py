"""The task models: shared weights, masks, training, and saving to a .keras file."""

import keras
import numpy as np
import pytest

from keras_attn import training
from keras_attn.models import bert, bert_tasks
from tests.backend import computed

B, T, C, V = 2, 7, 3, 23
SIZE = {"hidden_dim": 12, "num_heads": 3, "intermediate_dim": 17, "max_length": 97}
BUILDERS = {
    "classifier": lambda encoder: bert_tasks.classifier(encoder, 5),
    "classifier_first": lambda encoder: bert_tasks.classifier(encoder, 5, pooling="first"),
    "classifier_mean": lambda encoder: bert_tasks.classifier(encoder, 5, pooling="mean"),
    "classifier_max": lambda encoder: bert_tasks.classifier(encoder, 5, pooling="max"),
    "regressor": bert_tasks.regressor,
    "tagger": lambda encoder: bert_tasks.tagger(encoder, 5),
    "span": bert_tasks.span,
    "multiple_choice": lambda encoder: bert_tasks.multiple_choice(encoder, C),
    "embedder": bert_tasks.embedder,
    "embedder_last": lambda encoder: bert_tasks.embedder(encoder, pooling="last", normalize=False),
    "siamese": lambda encoder: bert_tasks.siamese(bert_tasks.embedder(encoder), C),
    "masked_lm": bert_tasks.masked_lm,
    "next_sentence": bert_tasks.next_sentence,
}
SHAPES = {
    "classifier": (B, 5),
    "regressor": (B, 1),
    "tagger": (B, T, 5),
    "span": {"start": (B, T), "end": (B, T)},
    "multiple_choice": (B, C),
    "embedder": (B, SIZE["hidden_dim"]),
    "siamese": (B, C, SIZE["hidden_dim"]),
    "masked_lm": (B, 2, V),
    "next_sentence": (B, 2),
}
SEVERAL = ("multiple_choice", "siamese")


@pytest.fixture
def encoder():
    return bert.encoder("bert_tiny", vocabulary_size=V, **SIZE)


def batch(name, padding=0):
    rng = np.random.default_rng(0)
    shape = (B, C, T) if name in SEVERAL else (B, T)
    inputs = {
        "token_ids": rng.integers(1, V, shape),
        "segment_ids": np.broadcast_to(np.arange(T) > 2, shape).astype(int),
        "padding_mask": np.broadcast_to(np.arange(T) < [[T], [5]], (B, T)),
    }
    if name in SEVERAL:
        inputs["padding_mask"] = np.stack([inputs["padding_mask"]] * C, axis=1)
    widths = [(0, 0)] * (len(shape) - 1) + [(0, padding)]
    inputs = {key: np.pad(value, widths) for key, value in inputs.items()}
    if name == "masked_lm":
        inputs["masked_positions"] = np.array([[1, 3], [0, 4]])
    return inputs


def run(model, inputs):
    return computed(model, inputs, training=False)


def equal(first, second, atol=0.0):
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=0), first, second
    )


def builders(*without):
    """The names of the builders; torch runs all in seconds, and some are slow elsewhere."""
    fast = "classifier", "masked_lm", "multiple_choice", "siamese", "span"
    return [
        pytest.param(name, marks=() if name in fast else pytest.mark.slow_on("tensorflow"))
        for name in BUILDERS
        if name not in without
    ]


@pytest.mark.parametrize("name", builders())
def test_output_shapes_and_outputs_after_reloading(name, encoder, tmp_path):
    model = BUILDERS[name](encoder)
    outputs = run(model, batch(name))
    shapes = keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape).shape, outputs)
    assert shapes == SHAPES[name if name in SHAPES else name.split("_", 1)[0]]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    equal(run(again, batch(name)), outputs)
    assert [weight.path for weight in again.weights] == [weight.path for weight in model.weights]


@pytest.mark.parametrize("name", builders("tagger", "span"))
def test_extra_padding_does_not_change_the_output(name, encoder):
    model = BUILDERS[name](encoder)
    equal(run(model, batch(name, padding=3)), run(model, batch(name)), atol=1e-5)


def test_span_and_tagger_ignore_extra_padding(encoder):
    inputs, longer = batch("span"), batch("span", padding=3)
    seen = inputs["padding_mask"]
    model = bert_tasks.tagger(encoder, 5)
    equal(run(model, longer)[:, :T][seen], run(model, inputs)[seen], atol=1e-5)
    logits = run(bert_tasks.span(encoder), longer)["start"]
    allowed = longer["padding_mask"] & (longer["segment_ids"] == 1)
    allowed[:, 0] = True  # [CLS] means no answer
    np.testing.assert_array_equal(logits == -30000, ~allowed)


@pytest.mark.parametrize("num_segments", [0, 1])
def test_span_masks_by_segment_ids_over_an_encoder_with_one_segment(num_segments):
    """Segment ids may mark the context, though they change no vector; else padding is masked."""
    encoder = bert.encoder("bert_tiny", vocabulary_size=V, num_segments=num_segments, **SIZE)
    inputs = batch("span")
    inputs["segment_ids"] = np.stack([np.arange(T) > 2, np.zeros(T)]).astype(int)
    logits = run(bert_tasks.span(encoder), inputs)
    marked = [[True, False, False, True, True, True, True], [True] * 5 + [False] * 2]
    for name in ("start", "end"):
        np.testing.assert_array_equal(logits[name] != -30000, marked)
    plain = run(encoder, {**inputs, "segment_ids": 0 * inputs["segment_ids"]})
    equal(run(encoder, inputs), plain)


def test_choices_are_scored_independently(encoder):
    """A batch [B, C, T] equals the same sequences computed one choice at a time."""
    model, inputs = bert_tasks.multiple_choice(encoder, C), batch("multiple_choice")
    kernel, bias = model.get_layer("multiple_choice").get_weights()
    expected = [
        run(encoder, {key: value[:, choice] for key, value in inputs.items()})["pooled_output"]
        @ kernel
        + bias
        for choice in range(C)
    ]
    equal(run(model, inputs), np.concatenate(expected, axis=1), atol=1e-5)


def test_embeddings_are_the_normalized_means_of_the_tokens(encoder):
    """In numpy, for one text and for several of a row, with padding in the second row."""
    inputs = batch("siamese")
    states = [
        run(encoder, {key: value[:, text] for key, value in inputs.items()})["sequence_output"]
        for text in range(C)
    ]
    states = np.stack(states, axis=1).astype("float64")  # [B, C, T, D]
    kept = inputs["padding_mask"][..., None]
    expected = (states * kept).sum(2) / kept.sum(2)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    embedder = bert_tasks.embedder(encoder)
    equal(run(bert_tasks.siamese(embedder, C), inputs), expected, atol=1e-6)
    one = {key: value[:, 1] for key, value in inputs.items()}
    equal(run(embedder, one), expected[:, 1], atol=1e-6)


def test_siamese_learns_which_texts_belong_together_and_trains_the_embedder(encoder):
    embedder = bert_tasks.embedder(encoder)
    model = bert_tasks.siamese(embedder)
    model.compile(keras.optimizers.Adam(0.01), training.InfoNCE())
    ids = np.random.default_rng(0).integers(1, V, (5, 2, T))
    inputs = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": ids > 0}
    model.fit(inputs, batch_size=5, epochs=20, verbose=0)
    first, second = (
        run(embedder, {key: value[:, text] for key, value in inputs.items()}) for text in (0, 1)
    )
    assert (first @ second.T).argmax(1).tolist() == [0, 1, 2, 3, 4]


def test_siamese_needs_a_model_with_one_vector(encoder):
    with pytest.raises(
        ValueError, match=r"`embedder` must have one output \[B, D\], got \(None, None, 5\)"
    ):
        bert_tasks.siamese(bert_tasks.tagger(encoder, 5))
    with pytest.raises(ValueError, match="one output .* got {'sequence_output'"):
        bert_tasks.siamese(encoder)


@pytest.mark.parametrize("name", builders())
def test_encoder_of_returns_the_shared_encoder(name, encoder):
    model = BUILDERS[name](encoder)
    token = encoder.get_layer("embedding").token_embedding
    given = bert.encoder_of(model)
    assert given.get_layer("embedding").token_embedding is token
    expected = run(encoder, batch("encoder"))
    actual = run(given, batch("encoder"))
    assert ("pooled_output" in actual) == any("pooler" in weight.path for weight in model.weights)
    equal(actual, {key: expected[key] for key in actual})


@pytest.mark.slow_on("tensorflow")
def test_fit_lowers_the_loss(encoder):
    model, inputs = bert_tasks.classifier(encoder, 2, dropout=0.0), batch("classifier")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = model.fit(inputs, np.array([0, 1]), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_masked_lm_uses_the_token_matrix(encoder):
    model = bert_tasks.masked_lm(encoder)
    before = run(model, batch("masked_lm"))
    matrix = encoder.get_layer("embedding").token_embedding.embeddings
    matrix.assign(matrix * 2)
    assert not np.allclose(run(model, batch("masked_lm")), before)
    assert not any("head" in weight.path for weight in encoder.weights)


def test_an_encoder_without_pooler_raises_unless_pooling_is_given(encoder):
    bare = keras.Model(encoder.input, {"sequence_output": encoder.output["sequence_output"]})
    with pytest.raises(
        ValueError, match="must have an output 'pooled_output', got sequence_output"
    ):
        bert_tasks.classifier(bare, 5)
    assert bert_tasks.classifier(bare, 5, pooling="mean").output.shape == (None, 5)


def test_an_unknown_pooling_raises(encoder):
    with pytest.raises(ValueError, match="`mode` must be one of first, last, mean, max, got 'sum'"):
        bert_tasks.classifier(encoder, 5, pooling="sum")


def test_a_number_of_choices_that_is_not_a_positive_integer_raises(encoder):
    with pytest.raises(ValueError, match="`num_choices` must be a positive integer, got 0"):
        bert_tasks.multiple_choice(encoder, 0)
    model = bert_tasks.multiple_choice(encoder, np.int64(C))
    assert keras.models.model_from_json(model.to_json()).output.shape == (None, C)
