"""Parity with transformers' GPT-2."""

import functools

import keras
import numpy as np
import pytest
import safetensors.numpy

from keras_attn import data, decoding, models, weights

SIZES = {"vocab_size": 37, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 97}


@pytest.fixture
def gpt2(tmp_path):
    """A function: options -> (the transformers model with random weights, its directory)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def make(architecture="GPT2LMHeadModel", **overrides):
        torch.manual_seed(0)
        config = transformers.GPT2Config(**{**SIZES, **overrides})
        model = getattr(transformers, architecture)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.2)
        model.save_pretrained(tmp_path)
        return model, tmp_path

    return make


@pytest.mark.parametrize("inner", [None, 19])
def test_logits_equal_transformers(inner, gpt2, inputs, run_theirs):
    model, directory = gpt2(n_inner=inner)
    loaded = weights.load(directory)
    del inputs["segment_ids"]
    outputs = keras.ops.convert_to_numpy(loaded.model(inputs, training=False))
    expected = run_theirs(model, inputs, token_type_ids=None).logits.numpy()
    seen = inputs["padding_mask"]
    np.testing.assert_allclose(outputs[seen], expected[seen], atol=1e-4)
    assert (loaded.skipped, loaded.initialized) == ((), ())


@pytest.mark.slow_on("tensorflow")
@pytest.mark.parametrize("search", ["greedy", "beam_search"])
@pytest.mark.parametrize(
    "options",
    [{"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 2}],
    ids=["penalty", "n-grams"],
)
def test_generation_with_repetition_options_equals_transformers(search, options, gpt2):
    """With prompts of unequal length, which transformers gets one by one."""
    import torch

    theirs, directory = gpt2()
    theirs.generation_config.eos_token_id = theirs.generation_config.bos_token_id = None
    theirs.generation_config.pad_token_id = 0
    prompts, lengths = np.array([[5, 7, 5, 7], [11, 3, 0, 0]], "int32"), np.array([4, 2])
    beams = 3 if search == "beam_search" else 1

    def found_by(**options):
        own = {"beams": beams} if beams > 1 else {}
        own = functools.partial(getattr(decoding, search), max_new_tokens=13, **own, **options)
        generate = models.steps.generator(weights.load(directory).model, own, 17)
        found = decoding.compiled(generate)(prompts, lengths)
        return keras.ops.convert_to_numpy(found["token_ids"]).reshape(2, beams, 17)

    found = found_by(**options)
    assert (found != found_by()).any()
    for row, length in enumerate(lengths):
        expected = theirs.generate(
            torch.tensor(prompts[row : row + 1, :length]).long(),
            max_new_tokens=13,
            do_sample=False,
            num_beams=beams,
            num_return_sequences=beams,
            length_penalty=0.0,
            **options,
        )
        np.testing.assert_array_equal(found[row, :, : length + 13], expected.numpy())


def test_old_weight_names_are_read(gpt2):
    """The first files omit the prefix `transformer.` and hold the causal mask."""
    _, directory = gpt2("GPT2Model")
    file = directory / "model.safetensors"
    arrays = safetensors.numpy.load_file(file)
    assert "h.0.ln_1.weight" in arrays
    arrays["h.0.attn.bias"] = np.tril(np.ones((1, 1, 97, 97), bool))
    safetensors.numpy.save_file(arrays, file)
    assert weights.load(directory).skipped == ("h.0.attn.bias",)


PAD = 36
CLASSES = {
    "classifier": "GPT2ForSequenceClassification",
    "regressor": "GPT2ForSequenceClassification",
    "tagger": "GPT2ForTokenClassification",
    "span": "GPT2ForQuestionAnswering",
}


def ours(model, inputs):
    outputs = model({name: inputs[name] for name in model.input}, training=False)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def reloaded(architecture, directory, caplog):
    """What transformers makes of the directory, without a warning."""
    import transformers

    caplog.clear()
    kind = getattr(transformers, architecture)
    model, report = kind.from_pretrained(directory, output_loading_info=True)
    assert not any(report.values()) and not caplog.records
    return model.eval()


def padded(inputs):
    """The padding id only at padding, and no segment that marks a context."""
    ids = np.where(inputs["token_ids"] == PAD, 5, inputs["token_ids"])
    ids = np.where(inputs["padding_mask"], ids, PAD)
    return {**inputs, "token_ids": ids, "segment_ids": 0 * ids}


@pytest.mark.parametrize(
    "task",
    [
        task if task == "classifier" else pytest.param(task, marks=pytest.mark.slow)
        for task in CLASSES
    ],
)
def test_a_language_model_is_trained_for_a_task_and_goes_back(
    task, gpt2, inputs, run_theirs, tmp_path, caplog
):
    _, directory = gpt2(pad_token_id=PAD)
    options = {"num_classes": 3} if task in ("classifier", "tagger") else {}
    loaded = weights.load(directory, task, **options)
    assert loaded.skipped == ()
    assert all("output" in name for name in loaded.initialized) and loaded.initialized
    inputs, model = padded(inputs), loaded.model
    before = ours(model, inputs)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(inputs, keras.tree.map_structure(np.ones_like, before), verbose=0)
    assert not np.allclose(*(keras.tree.flatten(out)[0] for out in (ours(model, inputs), before)))

    weights.save(loaded, tmp_path / "again")
    theirs = run_theirs(
        reloaded(CLASSES[task], tmp_path / "again", caplog), inputs, token_type_ids=None
    )
    expected, seen = ours(model, inputs), inputs["padding_mask"]
    if task == "span":
        for name, value in expected.items():
            other = theirs[f"{name}_logits"].numpy()
            np.testing.assert_allclose(value[seen], other[seen], atol=1e-4)
            assert (value[~seen] == -30000).all()
        return
    seen = seen if task == "tagger" else ...
    np.testing.assert_allclose(expected[seen], theirs["logits"].numpy()[seen], atol=1e-4)
    again = weights.load(tmp_path / "again", task)
    assert (again.skipped, again.initialized) == ((), ())
    np.testing.assert_array_equal(ours(again.model, inputs), expected)


def test_hidden_states_of_the_encoder_equal_transformers(
    gpt2, inputs, run_theirs, tmp_path, caplog
):
    model, directory = gpt2()
    loaded = weights.load(directory, "encoder", hidden_states=True)
    found, seen = ours(loaded.model, inputs), inputs["padding_mask"]
    weights.save(loaded, tmp_path / "again")
    for theirs in (model.transformer, reloaded("GPT2Model", tmp_path / "again", caplog)):
        theirs.config.output_hidden_states = True
        expected = run_theirs(theirs, inputs, token_type_ids=None)
        np.testing.assert_allclose(
            found["sequence_output"][seen], expected.last_hidden_state[seen], atol=1e-4
        )
        pairs = zip(found["hidden_states"], expected.hidden_states, strict=True)
        for actual, other in pairs:
            np.testing.assert_allclose(actual[seen], other.numpy()[seen], atol=1e-4)
    with pytest.raises(ValueError, match="`hidden_states` must be False for the language model of"):
        weights.load(directory, hidden_states=True)


TOKENS = {"l": 0, "o": 1, "w": 2, "lo": 3, "low": 4, "<|endoftext|>": 5}


@pytest.mark.parametrize("tokens", [TOKENS, {**TOKENS, "[PAD]": 6}], ids=["without", "with"])
def test_the_padding_id_of_the_tokenizer_is_saved(tokens, run_theirs, tmp_path, caplog):
    """The classifier of transformers finds the end of a row by it, and has no batch without it."""
    added = [{"content": name, "special": True} for name in tokens if len(name) > 4]
    tokenizer = data.BytePairTokenizer(tokens, ["l o", "lo w"], added)
    encoder = models.gpt.encoder(
        "gpt_tiny", vocabulary_size=7, num_layers=1, max_length=97, hidden_dim=12, num_heads=3
    )
    model = models.bert_tasks.classifier(encoder, 3)
    weights.save(model, tmp_path, tokenizer=tokenizer)
    theirs = reloaded("GPT2ForSequenceClassification", tmp_path, caplog)
    rows = data.BertPreprocessor(tokenizer, 11)(["low", "lol lo"])
    rows = {name: np.array(value) for name, value in rows.items()}
    assert rows["token_ids"][0].tolist() == [5, 4, 5] + [tokenizer.pad_id] * 2
    expected = ours(model, rows)
    if "[PAD]" in tokens:
        assert theirs.config.pad_token_id == 6
        found = run_theirs(theirs, rows, token_type_ids=None).logits
        np.testing.assert_allclose(expected, found, atol=1e-5)
        return
    assert theirs.config.pad_token_id is None
    with pytest.raises(ValueError, match="batch sizes > 1 if no padding token"):
        run_theirs(theirs, rows, token_type_ids=None)
    second = {name: value[1:] for name, value in rows.items()}
    found = run_theirs(theirs, second, token_type_ids=None).logits
    np.testing.assert_allclose(expected[1:], found, atol=1e-5)


def test_a_classifier_without_a_task_is_the_language_model(gpt2, inputs, run_theirs):
    model, directory = gpt2("GPT2ForSequenceClassification", num_labels=5, pad_token_id=PAD)
    loaded = weights.load(directory)
    assert (loaded.skipped, loaded.initialized) == (("score.weight",), ())
    states = run_theirs(model.transformer, inputs, token_type_ids=None).last_hidden_state
    expected = (states @ model.transformer.wte.weight.T).detach().numpy()
    seen = inputs["padding_mask"]
    np.testing.assert_allclose(ours(loaded.model, inputs)[seen], expected[seen], atol=1e-3)


def test_an_output_that_is_not_tied_matters_to_the_language_model_alone(gpt2):
    _, directory = gpt2(tie_word_embeddings=False)
    with pytest.raises(ValueError, match="`tie_word_embeddings` must be True, got False"):
        weights.load(directory)
    assert weights.load(directory, "span").skipped == ("lm_head.weight",)


def test_the_dropout_of_a_tagger_is_saved(gpt2, tmp_path):
    _, directory = gpt2("GPT2ForTokenClassification", num_labels=5)
    assert weights.load(directory, "tagger").model.get_layer("tagger").dropout == 0.1
    weights.save(weights.load(directory, "tagger", dropout=0.4), tmp_path / "again")
    assert weights.load(tmp_path / "again", "tagger").model.get_layer("tagger").dropout == 0.4


def test_a_classifier_that_takes_another_position_is_not_saved(gpt2, tmp_path):
    _, directory = gpt2()
    loaded = weights.load(directory, "classifier", num_classes=3, pooling="mean")
    with pytest.raises(ValueError, match="must have pooling='last' for transformers .* got 'mean'"):
        weights.save(loaded, tmp_path / "again")


def test_choices_and_vectors_of_gpt2(gpt2, inputs, tmp_path, caplog):
    """Multiple choice has no class in transformers; an embedder is saved as the plain model."""
    _, directory = gpt2()
    choices = weights.load(directory, "multiple_choice", num_choices=2)
    several = {name: np.stack([value, value[:, ::1]], 1) for name, value in inputs.items()}
    assert ours(choices.model, several).shape == (2, 2)
    with pytest.raises(ValueError, match="a class of gpt2 .* got weights multiple_choice/out"):
        weights.save(choices, tmp_path / "choices")

    embedder = weights.load(directory, "embedder", pooling="last")
    weights.save(embedder, tmp_path / "vectors")
    again = weights.load(tmp_path / "vectors", "embedder")
    assert again.model.get_layer("pooling").mode == "last"
    np.testing.assert_array_equal(ours(again.model, inputs), ours(embedder.model, inputs))
    reloaded("GPT2Model", tmp_path / "vectors", caplog)


def test_tasks_that_a_causal_model_cannot_have_raise(gpt2):
    _, directory = gpt2()
    for task in ("masked_lm", "next_sentence", "pretraining"):
        text = f"`task` must be None or one of .*, embedder, encoder for gpt2, got '{task}'"
        with pytest.raises(ValueError, match=text):
            weights.load(directory, task)


def test_an_unsupported_attention_scale_raises(gpt2):
    _, directory = gpt2(scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(
        ValueError, match="`scale_attn_by_inverse_layer_idx` must be False, got True"
    ):
        weights.load(directory)
