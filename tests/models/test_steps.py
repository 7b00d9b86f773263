"""The step of a trained decoder: cached decoding equals the full model at every step."""

import functools

import keras
import numpy as np
import pytest

from keras_attn import decoding, layers, models
from tests.backend import BACKEND, arrays, computed, tensors

B, S, T, V, L, N = 2, 7, 5, 23, 11, 3
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, V, (B, T)).astype("int32")
SOURCE = RNG.integers(0, V, (B, S)).astype("int32")
SOURCE_MASK = np.arange(S) < np.array([[7], [4]])
GPT = models.sizes.GptSize(2, 12, N, 31, vocabulary_size=V, max_length=L, initializer_range=0.4)
TRANSFORMER = models.sizes.TransformerSize(2, 12, N, 31, vocabulary_size=V)
POSITIONS = {
    "default": lambda: None,
    "learned": lambda: layers.LearnedPositionEmbedding(L),
    "sinusoidal": lambda: layers.SinusoidalPositionEncoding(),
    "rotary": lambda: layers.RotaryEmbedding(100.0, rotary_fraction=0.5),
    "alibi": lambda: layers.ALiBi(N),
    "t5": lambda: layers.RelativePositionBias(N, bidirectional=False, initializer="normal"),
}


def gpt(**options):
    return models.gpt.decoder(GPT, **options)


def logits_of(model, tokens):
    """Logits of the full model."""
    if "source_ids" in model.input:
        own = {"source_ids": SOURCE, "source_padding_mask": SOURCE_MASK, "target_ids": tokens}
    else:
        own = {"token_ids": tokens, "padding_mask": np.ones(tokens.shape, bool)}
    return computed(model, own)


def stepwise(model, spans):
    """Logits after each span of tokens, from the cache."""
    step, cache = models.steps.decoder_step(model), models.steps.empty_cache(model, B, L)
    matrix = model.get_layer("token_embedding").embeddings.value
    context = {}
    if "source_ids" in model.input:
        context["context"] = models.steps.source_context(model, SOURCE, SOURCE_MASK)
    logits = []
    for start, stop in spans:
        inputs = {
            "token_ids": tensors(TOKENS[:, start:stop]),
            "index": tensors(np.array(start, "int32")),
            "cache": cache,
            "output_matrix": matrix,
        }
        outputs = computed(step, {**inputs, **context})
        cache = outputs["cache"]
        logits.append(outputs["logits"])
    return np.stack(logits, axis=1)


def positions(*fast):
    """Every position; JAX compiles two models for each, most of them are slow there."""
    return [
        pytest.param(name, marks=() if name in fast else pytest.mark.slow_on("jax"))
        for name in POSITIONS
    ]


@pytest.mark.parametrize("position", positions("default", "rotary", "t5"))
def test_cached_gpt_steps_equal_the_full_model(position):
    model = gpt(position=POSITIONS[position]())
    found = stepwise(model, [(0, 2), *((i, i + 1) for i in range(2, T))])
    np.testing.assert_allclose(found, logits_of(model, TOKENS)[:, 1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", positions("default", "alibi"))
def test_cached_transformer_steps_equal_the_full_model(position):
    model = models.transformer.encoder_decoder(TRANSFORMER, position=POSITIONS[position]())
    found = stepwise(model, [(i, i + 1) for i in range(T)])
    np.testing.assert_allclose(found, logits_of(model, TOKENS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"window": 2}, {"dtype": "mixed_bfloat16"}])
@pytest.mark.slow_on("jax")
def test_cached_steps_with_a_window_or_bfloat16_equal_the_full_model(options):
    model = gpt(**options)
    loose = "dtype" in options
    found = stepwise(model, [(i, i + 1) for i in range(T)])
    expected = logits_of(model, TOKENS)
    np.testing.assert_allclose(found, expected, atol=0.2 if loose else 1e-5, rtol=1e-4)


@pytest.mark.slow_on("jax")
def test_the_step_shares_the_weights_and_can_be_saved(tmp_path):
    model = gpt()
    step = models.steps.decoder_step(model)
    assert {id(w) for w in step.weights} == {id(w) for w in model.weights}
    step.save(tmp_path / "step.keras")
    loaded = keras.saving.load_model(tmp_path / "step.keras")
    inputs = {
        "token_ids": tensors(TOKENS[:, :2]),
        "index": tensors(np.array(0, "int32")),
        "cache": models.steps.empty_cache(model, B, L),
        "output_matrix": model.get_layer("token_embedding").embeddings.value,
    }
    expected, found = arrays(step(inputs)["logits"]), arrays(loaded(inputs)["logits"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def greedily(model, tokens, new):
    """Greedy search with the full model."""
    for _ in range(new):
        last = logits_of(model, tokens)[:, -1].argmax(-1)
        tokens = np.concatenate([tokens, last[:, None].astype("int32")], axis=1)
    return tokens


def greedy_generator(model, **options):
    search = functools.partial(decoding.greedy, max_new_tokens=4)
    generate = models.steps.generator(model, search, length=L)
    return decoding.compiled(generate, model.variables, **options)


@pytest.mark.parametrize("xla", [False, True] if BACKEND == "tensorflow" else [False])
def test_gpt_generation_equals_greedy_search_with_the_full_model(xla):
    model = gpt()
    found = arrays(greedy_generator(model, xla=xla)(TOKENS)["token_ids"])
    np.testing.assert_array_equal(found, greedily(model, TOKENS, 4))


@pytest.mark.slow_on("jax")
def test_transformer_generation_equals_greedy_search_with_the_full_model():
    model = models.transformer.encoder_decoder(TRANSFORMER)
    generate = greedy_generator(model)
    found = arrays(generate(TOKENS[:, :1], None, SOURCE, SOURCE_MASK)["token_ids"])
    np.testing.assert_array_equal(found, greedily(model, TOKENS[:, :1], 4))


@pytest.mark.slow_on("jax")
def test_beam_scores_equal_those_of_the_full_model():
    model = models.transformer.encoder_decoder(TRANSFORMER)
    search = functools.partial(decoding.beam_search, beams=3, max_new_tokens=4)
    generate = decoding.compiled(models.steps.generator(model, search, L), model.variables)
    found = arrays(generate(TOKENS[:, :1], None, SOURCE, SOURCE_MASK))
    for beam in range(3):
        tokens = found["token_ids"][:, beam]
        logits = logits_of(model, tokens[:, :-1]).astype("float64")
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = np.take_along_axis(logits, tokens[:, 1:, None], axis=2).sum((1, 2))
        np.testing.assert_allclose(found["scores"][:, beam], expected, rtol=1e-4)


def recurrent(attention="luong"):
    model = models.rnn_attention.encoder_decoder(
        V, V + 4, embedding_dim=5, units=7, attention=attention
    )
    draw = np.random.default_rng(3)
    model.set_weights([draw.normal(size=w.shape) for w in model.weights])
    return model


def recurrent_logits(model, tokens):
    assert tokens.all()  # 0 is padding to the whole model
    source = np.where(SOURCE_MASK, SOURCE, 0)
    found = computed(model, {"source_ids": source, "target_ids": tokens})
    return found["logits"].astype("float64")


SEARCHES = {
    "greedy": decoding.greedy,
    "sample": functools.partial(decoding.sample, seeds=np.array([5, 3]), top_p=1e-6),
    "beam": functools.partial(decoding.beam_search, beams=1),
}


@pytest.mark.slow_on("jax")
@pytest.mark.parametrize(
    ("search", "attention"),
    [
        ("greedy", "bahdanau"),
        pytest.param("sample", "luong", marks=pytest.mark.slow_on("jax")),
        ("beam", "local_p"),
    ],
)
def test_a_recurrent_translator_runs_in_every_decoding_loop(search, attention):
    """Prompts of unequal length, though a recurrent step takes one token at a time."""
    model, lengths = recurrent(attention), np.array([3, 1])
    prompt = np.array([[2, 9, 4], [7, 0, 0]], "int32")
    search = functools.partial(SEARCHES[search], max_new_tokens=4)
    generate = decoding.compiled(models.steps.generator(model, search, L), model.variables)
    found = arrays(generate(prompt, lengths, SOURCE, SOURCE_MASK)["token_ids"])
    found = found.reshape(2, 7)
    for row, length in enumerate(lengths):
        tokens = found[row : row + 1, : length + 4]
        logits = recurrent_logits(model, np.concatenate([tokens, tokens])[:, :-1])[row]
        np.testing.assert_array_equal(tokens[0, :length], prompt[row, :length])
        np.testing.assert_array_equal(logits.argmax(-1)[length - 1 :], tokens[0, length:])


def test_beam_scores_of_a_recurrent_translator_equal_those_of_the_full_model():
    model = recurrent()
    search = functools.partial(decoding.beam_search, beams=3, max_new_tokens=4)
    generate = decoding.compiled(models.steps.generator(model, search, L), model.variables)
    found = arrays(generate(np.full((2, 1), 2, "int32"), None, SOURCE, SOURCE_MASK))
    for beam in range(3):
        tokens = found["token_ids"][:, beam]
        logits = recurrent_logits(model, tokens[:, :-1])
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = np.take_along_axis(logits, tokens[:, 1:, None], axis=2).sum((1, 2))
        np.testing.assert_allclose(found["scores"][:, beam], expected, rtol=1e-4)


def test_the_step_of_an_encoder_raises():
    model = models.bert.encoder("bert_tiny", vocabulary_size=V)
    with pytest.raises(ValueError, match="`model` must have a decoder, got 'bert"):
        models.steps.starter(model, L)


@pytest.mark.slow_on("jax")
def test_a_compiled_generator_uses_updated_weights():
    model = gpt()
    generate = greedy_generator(model)
    before = arrays(generate(TOKENS)["token_ids"])
    model.set_weights([np.random.default_rng(5).normal(size=w.shape) for w in model.weights])
    after = arrays(generate(TOKENS)["token_ids"])
    np.testing.assert_array_equal(after, greedily(model, TOKENS, 4))
    assert (before != after).any()


def test_a_cache_longer_than_the_position_table_raises():
    message = "`length` must be at most the model's 11 positions, got 12"
    with pytest.raises(ValueError, match=message):
        models.steps.empty_cache(gpt(), B, 12)


def test_source_ids_that_are_missing_or_not_used_raise():
    search = functools.partial(decoding.greedy, max_new_tokens=2)
    translators = models.transformer.encoder_decoder(TRANSFORMER), recurrent()
    for model in translators:
        with pytest.raises(ValueError, match=f"`source_ids` must be given for '{model.name}', got"):
            models.steps.generator(model, search, L)(TOKENS)
    for given in ({"source_ids": SOURCE}, {"source_padding_mask": SOURCE_MASK}):
        with pytest.raises(ValueError, match="must be None for 'gpt', which has no encoder, got"):
            models.steps.generator(gpt(), search, L)(TOKENS, **given)
