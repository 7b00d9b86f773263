"""GPT's sizes, masks and task models; tests/weights compares outputs with transformers."""

import keras
import numpy as np
import pytest

from keras_attn import models
from tests.backend import arrays, assert_dropped, computed, randomize
from tests.models.test_bert_tasks import BUILDERS, SEVERAL
from tests.models.test_bert_tasks import batch as task_batch

B, T, V = 2, 7, 23
SIZE = models.sizes.GptSize(2, 12, 3, 31, vocabulary_size=V, max_length=11)


def test_gpt2_small_has_the_parameter_count_of_transformers():
    """124,439,808, as transformers counts GPT2Model (Radford et al. say 117 million)."""
    size, d, f = models.sizes.GPT_SMALL, 768, 3072
    block = 4 * (d * d + d) + d * f + f + f * d + d + 4 * d
    expected = (50_257 + 1024) * d + 12 * block + 2 * d
    assert expected == 124_439_808
    model = models.gpt.decoder(size, num_layers=1, vocabulary_size=100)
    assert model.count_params() == expected - 50_157 * d - 11 * block


def test_right_padding_and_later_tokens_do_not_change_the_logits():
    model = models.gpt.decoder(SIZE)
    ids = np.random.default_rng(0).integers(0, V, (B, T)).astype("int32")
    whole = arrays(model({"token_ids": ids, "padding_mask": np.ones((B, T), bool)}))
    padded = {"token_ids": ids * (np.arange(T) < 4), "padding_mask": np.arange(T)[None] < [[4]] * B}
    np.testing.assert_allclose(arrays(model(padded))[:, :4], whole[:, :4], rtol=1e-5, atol=1e-6)


def test_the_window_limits_attention():
    model = models.gpt.decoder(SIZE, window=2, num_layers=1)
    ids = np.random.default_rng(0).integers(0, V, (B, T)).astype("int32")
    mask = np.ones((B, T), bool)
    logits = arrays(model({"token_ids": ids, "padding_mask": mask}))
    ids[:, 2] = (ids[:, 2] + 1) % V
    moved = abs(arrays(model({"token_ids": ids, "padding_mask": mask})) - logits).max(-1) > 1e-6
    np.testing.assert_array_equal(moved, [[0, 0, 1, 1, 0, 0, 0]] * B)


def test_training_drops_the_embeddings():
    """With blocks that add zero, the last block returns the embeddings."""
    model = models.gpt.decoder(SIZE, embedding_dropout=0.3)
    for weight in model.weights:
        if "block" in weight.path and "seed_generator" not in weight.path:
            weight.assign(np.zeros(weight.shape))
    ids = np.random.default_rng(0).integers(0, V, (B, T)).astype("int32")
    inputs = {"token_ids": ids, "padding_mask": np.ones((B, T), bool)}
    stack = models.parts.of(model).decoder
    hidden = keras.Model(model.input, models.parts.outputs(model, stack.blocks[-1])[0])
    assert_dropped(hidden(inputs, training=True), hidden(inputs), 0.3)


def encoder(**options):
    return randomize(models.gpt.encoder(SIZE, **options))


def test_the_logits_are_the_encoder_times_the_token_matrix():
    """And the hidden states are the embeddings, the outputs of the blocks, the last one normed."""
    model, decoder = encoder(hidden_states=True), models.gpt.decoder(SIZE)
    path_of = models.parts.path_of
    found = {path_of(weight): arrays(weight) for weight in model.weights}
    for weight in decoder.weights:
        weight.assign(found.pop(path_of(weight)))
    assert not found
    inputs = task_batch("tagger")
    outputs = computed(model, inputs)
    logits = computed(decoder, {name: inputs[name] for name in decoder.input})
    matrix = arrays(models.parts.of(decoder).decoder.embedding.embeddings)
    expected = outputs["sequence_output"].astype("float64") @ matrix.astype("float64").T
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    stack = models.parts.of(decoder).decoder
    first = keras.Model(decoder.input, models.parts.outputs(decoder, stack.dropout)[0])
    states = outputs["hidden_states"]
    assert len(states) == 3
    embedded = computed(first, {name: inputs[name] for name in decoder.input})
    np.testing.assert_allclose(states[0], embedded, atol=1e-6)
    np.testing.assert_array_equal(states[2], outputs["sequence_output"])


TASKS = {
    "classifier": True,
    "regressor": False,
    "classifier_mean": False,
    "tagger": False,
    "span": False,
    "multiple_choice": True,
    "embedder_last": False,
    "siamese": False,
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if fast else pytest.mark.slow_on("tensorflow"))
        for name, fast in TASKS.items()
    ],
)
def test_task_models_ignore_padding_and_reload(name, tmp_path):
    bare = encoder(hidden_states=True)
    model = BUILDERS[name](bare)

    def run(model, padding=0):
        outputs = computed(model, task_batch(name, padding), training=False)
        return outputs["start"] if name == "span" else outputs

    outputs, padded = run(model), run(model, 3)
    seen = ...
    if name in ("tagger", "span"):
        padded, seen = padded[:, :T], task_batch(name)["padding_mask"]
    np.testing.assert_allclose(padded[seen], outputs[seen], atol=1e-4)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(run(again), outputs, atol=1e-5)

    found = models.parts.of(again)
    assert found.family == "gpt" and found.decoder is found.pooler is None
    assert found.encoder.norm.name == "norm"
    assert (found.head is None) == (name in ("embedder_last", "siamese"))
    inside = models.bert.encoder_of(again, hidden_states=True)
    inputs = task_batch("encoder")
    expected, actual = computed(bare, inputs), computed(inside, inputs)
    assert actual.keys() == expected.keys() == {"sequence_output", "hidden_states"}
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), actual, expected
    )
    assert name in SEVERAL or sorted(model.input) == sorted(inputs)


EXACT = pytest.mark.backends(
    "tensorflow", "torch", reason="JAX has no float64 unless a flag is set"
)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=EXACT)])
def test_a_classifier_reads_the_last_real_position_without_a_bias(dtype):
    bare = encoder(dtype=dtype)
    model = models.bert_tasks.classifier(bare, 5)
    inputs = task_batch("classifier")
    (kernel,) = model.get_layer("classifier").get_weights()
    states = computed(bare, inputs)["sequence_output"]
    last = states[np.arange(B), inputs["padding_mask"].sum(1) - 1]
    atol = 1e-12 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(computed(model, inputs), last @ kernel, atol=atol)


def test_a_span_may_be_at_any_real_position_where_no_context_is_marked():
    inputs = task_batch("span")
    inputs["segment_ids"][1] = 0
    logits = computed(models.bert_tasks.span(encoder()), inputs)["end"]
    marked = [[True, False, False, True, True, True, True], [True] * 5 + [False] * 2]
    np.testing.assert_array_equal(logits != -30000, marked)


@pytest.mark.slow_on("tensorflow")
def test_a_classifier_trains_with_adapters():
    model, inputs = models.bert_tasks.classifier(encoder(), 2, dropout=0.0), task_batch("tagger")
    for block in models.parts.of(model).encoder.blocks:
        block.self_attention.query_projection.enable_lora(2)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = model.fit(inputs, np.array([0, 1]), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_what_needs_both_sides_or_a_language_model_raises():
    bare = encoder()
    with pytest.raises(ValueError, match="must see both sides of a position, got 'gpt_encoder'"):
        models.bert_tasks.masked_lm(bare)
    with pytest.raises(ValueError, match="must have an output 'pooled_output', got sequence_out"):
        models.bert_tasks.next_sentence(bare)
    with pytest.raises(ValueError, match="`model` must have a decoder, got 'bert_classifier'"):
        models.steps.starter(models.bert_tasks.classifier(bare, 3), 7)
    with pytest.raises(ValueError, match="an encoder, got the decoder 'gpt': models.gpt.enc"):
        models.bert_tasks.classifier(models.gpt.decoder(SIZE), 3)


def test_an_unknown_size_raises():
    with pytest.raises(ValueError, match="`size` must be one of gpt_tiny, .* got 'gpt'"):
        models.gpt.decoder("gpt")
