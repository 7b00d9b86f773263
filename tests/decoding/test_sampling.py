"""Sampling: token frequencies, limits, and independence of rows."""

import numpy as np
import pytest
from keras import ops

from keras_attn import decoding
from keras_attn.decoding.sampling import draw, uniform
from keras_attn.ops import cache as caches
from tests.backend import arrays, tensors
from tests.decoding import histories

LOGITS = np.log(np.array([0.05, 0.4, 0.1, 0.25, 0.2], "float32"))
MANY = 4001


def drawn(**options):
    """The fraction of each token among many draws from LOGITS."""

    def step(token_ids, index, cache, context):
        return ops.broadcast_to(LOGITS, (MANY, 5)), cache

    found = decoding.sample(
        step,
        np.zeros((MANY, 1), "int32"),
        cache=caches.create(MANY, 2, 1, 1),
        max_new_tokens=1,
        **{"seeds": np.arange(MANY), **options},
    )
    return np.bincount(arrays(found["token_ids"])[:, 1], minlength=5) / MANY


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.05, 0.4, 0.1, 0.25, 0.2]),
        ({"min_p": 0.6}, np.array([0, 40, 0, 25, 0]) / 65),
        ({"min_p": 0.0}, [0.05, 0.4, 0.1, 0.25, 0.2]),
        ({"temperature": 0.5}, np.array([25, 1600, 100, 625, 400]) / 2750),
        ({"top_k": 1}, [0, 1, 0, 0, 0]),
        ({"top_k": 2}, np.array([0, 40, 0, 25, 0]) / 65),
        ({"top_k": 4, "active_top_k": np.full(MANY, 2)}, np.array([0, 40, 0, 25, 0]) / 65),
        ({"active_top_k": np.full(MANY, 1)}, [0, 1, 0, 0, 0]),
        ({"top_k": 99}, [0.05, 0.4, 0.1, 0.25, 0.2]),
        ({"top_p": 0.6}, np.array([0, 40, 0, 25, 0]) / 65),
        ({"top_p": 0.7}, np.array([0, 40, 0, 25, 20]) / 85),
        ({"top_p": 0.01}, [0, 1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.7}, np.array([0, 40, 0, 25, 0]) / 65),
    ],
)
def test_token_frequencies_match_the_probabilities(options, expected):
    found, expected = drawn(**options), np.array(expected)
    deviation = np.sqrt(expected * (1 - expected) / MANY)
    assert (abs(found - expected) <= 4 * deviation).all(), found


@pytest.mark.parametrize("p", [0.3, 0.6, 1.0])
def test_min_p_is_applied_last_as_in_transformers(p):
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    scores = torch.tensor(LOGITS)[None]
    for warp in (
        process.TemperatureLogitsWarper(1.5),
        process.TopKLogitsWarper(4),
        process.TopPLogitsWarper(0.8),
        process.MinPLogitsWarper(p),
    ):
        scores = warp(None, scores)
    expected = torch.softmax(scores, -1).numpy()[0]
    found = drawn(temperature=1.5, top_k=4, top_p=0.8, min_p=p)
    deviation = np.sqrt(expected * (1 - expected) / MANY)
    assert (abs(found - expected) <= 4 * deviation + 1e-6).all(), (found, expected)


def test_each_row_may_have_its_own_min_p():
    """The rows draw from all tokens, from the two most probable ones, and from the best one."""
    p = np.repeat(np.array([0.0, 0.6, 1.0], "float32"), [MANY - 2000, 1000, 1000])
    probabilities = np.array(
        [[0.05, 0.4, 0.1, 0.25, 0.2], [0, 40 / 65, 0, 25 / 65, 0], [0, 1, 0, 0, 0]]
    )
    expected = np.array([MANY - 2000, 1000, 1000]) / MANY @ probabilities
    np.testing.assert_allclose(drawn(min_p=tensors(p)), expected, atol=0.03)


def test_tokens_of_a_row_depend_only_on_its_own_seed():
    def sample(prompts, lengths, seeds):
        found = decoding.sample(
            histories.step,
            np.array(prompts, "int32"),
            prompt_lengths=np.array(lengths),
            seeds=np.array(seeds),
            cache=histories.empty(len(prompts)),
            max_new_tokens=5,
            temperature=1.7,
        )
        return [row[:end] for row, end in zip(*arrays(list(found.values())), strict=True)]

    batch = sample([[1, 2, 3], [4, 0, 0], [1, 2, 3], [1, 2, 3]], [3, 1, 3, 3], [11, 13, 17, 11])
    alone = sample([[4]], [1], [13])
    np.testing.assert_array_equal(batch[1], alone[0])
    np.testing.assert_array_equal(batch[0], batch[3])
    assert (batch[0] != batch[2]).any()


def test_each_row_may_have_its_own_temperature_and_top_p():
    found = decoding.sample(
        histories.step,
        np.array([[1], [1]], "int32"),
        seeds=[3, 3],
        cache=histories.empty(2),
        max_new_tokens=8,
        temperature=tensors(np.array([9.0, 1e-3], "float32")),
        top_p=tensors(np.array([1.0, 1.0], "float32")),
    )
    rows = arrays(found["token_ids"])
    assert rows[1].tolist() == histories.follow([1], 8)
    assert (rows[0] != rows[1]).any()


@pytest.mark.parametrize(
    "options",
    [{}, {"repetition_penalty": 1.3}, {"top_k": 3, "top_p": 0.9}, {"min_p": 0.1}],
    ids=["plain", "penalty", "top k", "min p"],
)
@pytest.mark.parametrize(
    "search",
    [
        decoding.compiled,
        pytest.param(lambda function: function, marks=pytest.mark.slow_on("jax"), id="eager"),
    ],
)
def test_the_lowest_temperatures_give_the_most_probable_tokens(search, options):
    """Logits that rounding can part from their own maximum, as a product with a matrix."""
    draw = np.random.default_rng(0)
    size, rows, coldest = 37, 48, [1e-8, 1e-9, 1e-12, 1e-30, 1e-38, 1e-45]
    left, right = draw.normal(size=(2, size, size)).astype("float32")
    prompts = draw.integers(0, size, (rows, 3)).astype("int32")

    def step(token_ids, index, cache, context):
        return ops.matmul(ops.take(tensors(left), token_ids[:, -1], axis=0), tensors(right)), cache

    def found(function, **own):
        cache = caches.create(rows, 7, 1, 1)
        own = {"cache": cache, "max_new_tokens": 4, "no_repeat_ngram_size": 2, **own}
        return arrays(search(lambda: function(step, prompts, **own)["token_ids"])())

    penalty = {key: value for key, value in options.items() if key == "repetition_penalty"}
    greedy = found(decoding.greedy, **penalty)
    temperature = tensors(np.repeat(np.array(coldest, "float32"), rows // len(coldest)))
    for each in (temperature, 1e-9):
        drawn = found(decoding.sample, seeds=np.arange(rows), temperature=each, **options)
        np.testing.assert_array_equal(drawn, greedy)


@pytest.mark.parametrize("temperature", [np.inf, 1e38])
def test_an_infinite_temperature_draws_evenly_from_what_is_allowed(temperature):
    banned = {"no_repeat_ngram_size": 1}  # the prompt holds token 0
    found = drawn(temperature=temperature, **banned)
    np.testing.assert_allclose(found, [0, 0.25, 0.25, 0.25, 0.25], atol=0.03)


def test_uniform_numbers_are_murmur_hashes_of_the_seed():
    def mix(bits):
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            bits = (bits ^ (bits >> shift)) * factor % 2**32
        return bits

    seeds = [0, 1, 2**31 - 1, -5]
    expected = [(mix((mix(s % 2**32) + 11) % 2**32) & 0xFFFFFF) / 2**24 for s in seeds]
    found = arrays(uniform(ops.convert_to_tensor(seeds, "int32"), 11))
    np.testing.assert_array_equal(found, np.array(expected, "float32"))


def test_tokens_of_zero_probability_are_never_drawn():
    probabilities = tensors(np.array([[0.0, 0.3, 0.0, 0.7, 0.0]] * 3, "float32"))
    found = draw(probabilities, tensors(np.array([0.0, 0.3, 1.0], "float32")))
    np.testing.assert_array_equal(arrays(found), [1, 3, 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be positive, got 0"),
        ({"top_k": 0}, "`top_k` must be a positive integer, got 0"),
        ({"top_k": 2.5}, "`top_k` must be a positive integer, got 2.5"),
        ({"top_p": 0.0}, r"`top_p` must be in \(0, 1\], got 0"),
        ({"min_p": -0.1}, r"`min_p` must be in \[0, 1\], got -0.1"),
        ({"min_p": 1.5}, r"`min_p` must be in \[0, 1\], got 1.5"),
        ({"min_p": "0.5"}, r"`min_p` must be in \[0, 1\], got '0.5'"),
        ({"min_p": [0.5, 0.9]}, r"`min_p` must have shape .* got shape \(2,\)"),
        ({"temperature": "hot"}, "`temperature` must be positive, got 'hot'"),
        ({"temperature": None}, "`temperature` must be positive, got None"),
        ({"temperature": [0.5, 1.5]}, r"`temperature` must have shape .* got shape \(2,\)"),
        ({"top_p": "0.5"}, r"`top_p` must be in \(0, 1\], got '0.5'"),
        ({"top_p": [0.5, 0.9]}, r"`top_p` must have shape .* got shape \(2,\)"),
        ({"seeds": [3]}, r"`seeds` must have shape \[batch\] = \(4001,\), got shape \(1,\)"),
        ({"top_p": np.array([0.5, 1.5])}, r"`top_p` must be in \(0, 1\], got 1.5"),
    ],
)
def test_invalid_input_raises(options, message):
    with pytest.raises(ValueError, match=message):
        drawn(**options)
