"""Parity with transformers' GPT-2."""

import functools

import keras
import numpy as np
import pytest
import safetensors.numpy

from keras_attn import decoding, models, weights

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

    def ours(**options):
        own = {"beams": beams} if beams > 1 else {}
        own = functools.partial(getattr(decoding, search), max_new_tokens=13, **own, **options)
        generate = models.steps.generator(weights.load(directory).model, own, 17)
        found = decoding.compiled(generate)(prompts, lengths)
        return keras.ops.convert_to_numpy(found["token_ids"]).reshape(2, beams, 17)

    found = ours(**options)
    assert (found != ours()).any()
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


def test_a_task_for_gpt2_raises(gpt2):
    _, directory = gpt2()
    text = "`task` must be None and `hidden_states` False for gpt2, got 'tagger' and False"
    with pytest.raises(ValueError, match=text):
        weights.load(directory, "tagger", num_classes=2)


def test_an_unsupported_attention_scale_raises(gpt2):
    _, directory = gpt2(scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(
        ValueError, match="`scale_attn_by_inverse_layer_idx` must be False, got True"
    ):
        weights.load(directory)
