"""Repetition penalty and ban of n-grams against the logits processors of transformers."""

import numpy as np
import pytest
from keras import ops

from keras_attn import decoding
from keras_attn.decoding.logits import ban_repeated_ngrams, penalize_repetition
from tests.backend import BACKEND, arrays, compiled, tensors
from tests.decoding.histories import empty, log_probabilities, step

torch = pytest.importorskip("torch")
process = pytest.importorskip("transformers.generation.logits_process")

ROWS, SEEN, V = 5, 13, 7
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(ROWS, V)).astype("float32")
TOKENS = RNG.integers(0, V, (ROWS, SEEN)).astype("int32")
# Padding after the tokens so far is ignored and need not hold valid ids.
PADDED = np.concatenate([TOKENS, [[3, 1, -1, V, 99]] * ROWS], axis=1).astype("int32")


def theirs(processor, tokens=TOKENS, logits=LOGITS):
    found = processor(torch.tensor(np.array(tokens)).long(), torch.tensor(np.array(logits)))
    return found.numpy()


@pytest.mark.parametrize("penalty", [1.7, 0.6, 1.0])
def test_repetition_penalty_equals_transformers(penalty):
    found = penalize_repetition(tensors(LOGITS), tensors(PADDED), 6, penalty)
    expected = theirs(process.RepetitionPenaltyLogitsProcessor(penalty), TOKENS[:, :6])
    np.testing.assert_allclose(arrays(found), expected, rtol=1e-6)
    assert (arrays(found) != LOGITS).any() == (penalty != 1)


@pytest.mark.parametrize("size", [1, 2, 3, 5, SEEN + 1])
def test_ngram_ban_equals_transformers(size):
    tokens = TOKENS % 2  # so that longer n-grams repeat
    padded = np.concatenate([tokens, PADDED[:, SEEN:]], axis=1)
    found = ban_repeated_ngrams(tensors(LOGITS), tensors(padded), SEEN, size)
    expected = theirs(process.NoRepeatNGramLogitsProcessor(size), tokens)
    np.testing.assert_array_equal(arrays(found), expected)
    assert np.isinf(expected).any() == (size <= SEEN)


@pytest.mark.parametrize("length", [1, 3])
def test_padding_does_not_complete_an_ngram(length):
    same = np.full_like(PADDED, 3)
    found = ban_repeated_ngrams(tensors(LOGITS), tensors(same), length, 4)
    expected = theirs(process.NoRepeatNGramLogitsProcessor(4), same[:, :length])
    np.testing.assert_array_equal(arrays(found), expected)


@pytest.mark.parametrize("xla", [False, True] if BACKEND == "tensorflow" else [False])
def test_options_of_each_row_apply_to_its_beams(xla):
    """Axes [B, W, ...], and a length that is known only at run time."""
    logits = RNG.normal(size=(3, 2, V)).astype("float32")
    tokens = RNG.integers(0, 3, (3, 2, SEEN)).astype("int32")
    penalties, sizes = np.array([1.5, 0.7, 2.0], "float32"), np.array([0, 1, 3], "int32")

    def both(logits, tokens, length, penalties, sizes):
        logits = penalize_repetition(logits, tokens, length, penalties)
        return ban_repeated_ngrams(logits, tokens, length, 4, sizes)

    run = both if BACKEND == "torch" else compiled(both, xla)
    given = (logits, tokens, np.array(11, "int32"), penalties, sizes)
    found = arrays(run(*tensors(given)))
    for row, (penalty, size) in enumerate(zip(penalties.tolist(), sizes.tolist(), strict=True)):
        seen = tokens[row, :, :11]
        expected = theirs(process.RepetitionPenaltyLogitsProcessor(penalty), seen, logits[row])
        if size:
            expected = theirs(process.NoRepeatNGramLogitsProcessor(size), seen, expected)
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)


PROMPTS = np.array([[3, 1, 4, 1], [2, 6, 0, 0], [5, 3, 5, 0]], "int32")
LENGTHS = np.array([4, 2, 3], "int32")
OPTIONS = {"repetition_penalty": 1.6, "no_repeat_ngram_size": 2}


def follow(tokens, new):
    """Greedy search with the processors of transformers."""
    processors = [
        process.RepetitionPenaltyLogitsProcessor(OPTIONS["repetition_penalty"]),
        process.NoRepeatNGramLogitsProcessor(OPTIONS["no_repeat_ngram_size"]),
    ]
    for _ in range(new):
        logits = log_probabilities(tokens)[None]
        for processor in processors:
            logits = theirs(processor, [tokens], logits)
        tokens = [*tokens, int(logits.argmax())]
    return tokens


def normalized(token_ids, index, cache, context):
    """The step with log-probabilities as logits, so that beams change the same numbers."""
    logits, cache = step(token_ids, index, cache, context)
    return ops.log_softmax(logits), cache


def searched(search, **options):
    options = {"max_new_tokens": 6, **OPTIONS, **options}
    return search(normalized, PROMPTS, prompt_lengths=LENGTHS, cache=empty(3), **options)


@pytest.mark.parametrize(
    ("search", "options"),
    [
        (decoding.greedy, {}),
        (decoding.sample, {"seeds": [1, 2, 3], "temperature": 1e-4}),
        (decoding.beam_search, {"beams": 1}),
        (decoding.beam_search, {"beams": 2, "active_beams": np.array([1, 1, 1])}),
    ],
    ids=["greedy", "sample", "beam", "active beam"],
)
def test_every_search_applies_the_options_to_prompts_of_unequal_length(search, options):
    found = arrays(decoding.compiled(lambda: searched(search, padding_id=-1, **options))())
    for row, length in enumerate(LENGTHS):
        tokens = found["token_ids"][row].reshape(-1, 10)[0, : length + 6]
        assert tokens.tolist() == follow(PROMPTS[row, :length].tolist(), 6)


@pytest.mark.parametrize(
    ("search", "options"),
    [
        (decoding.greedy, {}),
        (decoding.sample, {"seeds": [1, 2, 3]}),
        (decoding.sample, {"seeds": [1, 2, 3], "top_k": 3, "top_p": 0.9, "min_p": 0.1}),
        (decoding.beam_search, {"beams": 3}),
    ],
    ids=["greedy", "sample", "top k", "beam"],
)
def test_prompts_stay_when_every_token_is_banned(search, options):
    """A row may add each of the seven tokens that it does not hold once; the first has too few."""
    ban = {"max_new_tokens": 5, "no_repeat_ngram_size": 1, "repetition_penalty": None}
    found = arrays(searched(search, **options, **ban))
    tokens = found["token_ids"].reshape(3, -1, found["token_ids"].shape[-1])
    for row, length in enumerate(LENGTHS):
        assert found["lengths"][row].min() == length + 5
        for beam in tokens[row]:
            np.testing.assert_array_equal(beam[:length], PROMPTS[row, :length])
            free = min(V - len(set(PROMPTS[row, :length].tolist())), 5)
            new = beam[length : length + free].tolist()
            assert len(set(new) - set(beam[:length].tolist())) == free
            assert (beam[length + free : length + 5] == 0).all()
    if "scores" in found:
        assert np.isinf(found["scores"]).all(1).tolist() == [True, False, False]


def test_the_smallest_and_largest_penalties_give_numbers():
    """Without the bounds the first is infinite or, where a logit is 0, no number."""
    for penalty, expected in ((1e-45, [1e38, 0.0, 0.0]), (3e38, [0.0, 0.0, -np.inf])):
        logits = tensors(np.array([[[5.0, 0.0, -2.0]]], "float32"))
        tokens = tensors(np.array([[[0, 1, 2]]], "int32"))
        found = arrays(penalize_repetition(logits, tokens, 3, penalty))[0, 0]
        assert not np.isnan(found).any() and found[0] < np.inf
        np.testing.assert_allclose(np.minimum(found, 1e38), expected, atol=1e-30)


@pytest.mark.parametrize("search", ["greedy", "sample", "beam_search"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penalty": 0.0}, "`repetition_penalty` must be positive and finite, got 0"),
        ({"repetition_penalty": -1}, "`repetition_penalty` must be positive and finite, got -1"),
        ({"repetition_penalty": np.inf}, "`repetition_penalty` must be positive and .* got inf"),
        ({"repetition_penalty": "1"}, "`repetition_penalty` must be positive and .* got '1'"),
        ({"repetition_penalty": [1.5, 2.0]}, r"`repetition_penalty` must have .* shape \(2,\)"),
        ({"no_repeat_ngram_size": 0}, "`no_repeat_ngram_size` must be a positive integer, got 0"),
        ({"no_repeat_ngram_size": 2.0}, "`no_repeat_ngram_size` must be a positive .* got 2.0"),
        ({"active_no_repeat_ngram_size": [1.5] * 3}, "`active_no_.*` must hold integers, got fl"),
        ({"active_no_repeat_ngram_size": [1]}, r"`active_no_.*` must have shape .* \(1,\)"),
        (
            {"active_no_repeat_ngram_size": [1, 2, 0], "no_repeat_ngram_size": None},
            "`no_repeat_ngram_size` must be given with `active_no_repeat_ngram_size`, got None",
        ),
    ],
)
def test_invalid_input_raises(search, options, message):
    own = {"sample": {"seeds": [1, 2, 3]}, "beam_search": {"beams": 2}}.get(search, {})
    with pytest.raises(ValueError, match=message):
        searched(getattr(decoding, search), **{**own, **options})
