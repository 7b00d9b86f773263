"""Beam search against exhaustive search in numpy."""

import itertools

import numpy as np
import pytest
from keras import ops

from keras_attn import decoding
from tests.backend import arrays, tensors
from tests.decoding.histories import V, empty, follow, log_probabilities, score, step

PROMPTS = np.array([[3, 1, 4, 1], [2, 6, 0, 0], [5, 3, 5, 0]], "int32")
LENGTHS = np.array([4, 2, 3], "int32")
STARTS = [row[:end].tolist() for row, end in zip(PROMPTS, LENGTHS, strict=True)]


def search(prompts=PROMPTS, lengths=LENGTHS, **options):
    options = {"max_new_tokens": 6, "beams": 3, **options}
    return arrays(
        decoding.beam_search(
            step, prompts, prompt_lengths=lengths, cache=empty(len(prompts)), **options
        )
    )


def hypotheses(found, row):
    """Each beam's tokens up to its end, and its score."""
    beams = zip(*(found[name][row] for name in ("token_ids", "lengths", "scores")), strict=True)
    beams = list(beams)
    for ids, end, _ in beams:
        assert (ids[end:] == 0).all()
    return [(ids[:end].tolist(), value) for ids, end, value in beams]


def penalty(new, exponent):
    return ((5 + new) / 6) ** exponent


@pytest.mark.parametrize("stops", [(), (0,), (0, 4)])
def test_one_beam_is_greedy_search(stops):
    found = search(beams=1, stop_token_ids=stops, length_penalty=0.9)
    for row, start in enumerate(STARTS):
        ((tokens, _),) = hypotheses(found, row)
        assert tokens == follow(start, 6, stops)


@pytest.mark.parametrize("exponent", [0.0, 0.6])
@pytest.mark.parametrize("stops", [(), (0, 4)])
def test_scores_are_the_log_probabilities_of_the_tokens(exponent, stops):
    found = search(stop_token_ids=stops, length_penalty=exponent)
    for row, start in enumerate(STARTS):
        beams = hypotheses(found, row)
        assert len({tuple(tokens) for tokens, _ in beams}) == 3
        assert [value for _, value in beams] == sorted((v for _, v in beams), reverse=True)
        for tokens, value in beams:
            assert tokens[: len(start)] == start
            new = len(tokens) - len(start)
            assert new == 6 or tokens[-1] in stops
            expected = score(tokens, len(start)) / penalty(new, exponent)
            np.testing.assert_allclose(value, expected, rtol=1e-5)


def never_stopping(start, beams, exponent, stops, new=6):
    """Beam search in numpy that runs every hypothesis to the limit and returns the best ones."""
    running, finished = [(0.0, start)], []
    for count in range(1, new + 1):
        longer = [
            (total + value, [*tokens, token])
            for total, tokens in running
            for token, value in enumerate(log_probabilities(tokens))
        ]
        ended = [pair for pair in longer if pair[1][-1] in stops]
        running = sorted((pair for pair in longer if pair[1][-1] not in stops), reverse=True)[
            :beams
        ]
        if count == new:
            ended += running
        finished += [(total / penalty(count, exponent), tokens) for total, tokens in ended]
    return sorted(finished, reverse=True)[:beams]


@pytest.mark.parametrize(
    ("beams", "exponent", "stops"),
    [
        (2, 0.0, (0,)),
        (V + 2, 0.0, (4, 0, 4)),
        (3, -0.5, (4, 0)),
        (V + 2, 0.6, (0,)),
        (3, 3.0, (0,)),
    ],
)
def test_search_continues_while_a_running_hypothesis_can_win(beams, exponent, stops):
    found = search(beams=beams, stop_token_ids=stops, length_penalty=exponent)
    for row, start in enumerate(STARTS):
        expected = never_stopping(start, beams, exponent, stops)
        assert [tokens for tokens, _ in hypotheses(found, row)] == [t for _, t in expected]
        np.testing.assert_allclose(found["scores"][row], [v for v, _ in expected], rtol=1e-5)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_enough_beams_equal_an_exhaustive_search(exponent):
    found = search(beams=V**2, max_new_tokens=3, stop_token_ids=(2,), length_penalty=exponent)
    others = [token for token in range(V) if token != 2]
    for row, start in enumerate(STARTS):
        every = [
            [*start, *tokens, last]
            for new in range(3)
            for tokens in itertools.product(others, repeat=new)
            for last in (range(V) if new == 2 else [2])
        ]
        scored = sorted(
            (
                (score(tokens, len(start)) / penalty(len(tokens) - len(start), exponent), tokens)
                for tokens in every
            ),
            reverse=True,
        )[: V**2]
        assert [tokens for tokens, _ in hypotheses(found, row)] == [t for _, t in scored]
        np.testing.assert_allclose(found["scores"][row], [v for v, _ in scored], rtol=1e-5)


def likelier_later(token_ids, index, cache, context):
    """Token 0 ends at once with probability 0.4; tokens 1, 2, 0 have 0.6 * 0.9 = 0.54."""
    rows = np.array([[1, 1, 1], [0.1, 0, 0.9], [1, 0, 0], [0.4, 0.6, 0]], "float32")
    return ops.log(ops.take(rows, token_ids[:, 0], axis=0) + 1e-30), cache


@pytest.mark.parametrize("early", [False, True])
def test_more_beams_score_no_worse_than_greedy_search_unless_stopped_early(early):
    found = arrays(
        decoding.beam_search(
            likelier_later,
            [[3], [3]],
            cache=empty(2),
            beams=2,
            active_beams=tensors(np.array([2, 1], "int32")),
            max_new_tokens=5,
            stop_token_ids=(0,),
            early_stopping=early,
        )
    )
    two, one = (hypotheses(found, row)[0] for row in range(2))
    assert one[0] == [3, 1, 2, 0]
    assert two[0] == ([3, 0] if early else [3, 1, 2, 0])
    np.testing.assert_allclose(np.exp(two[1]), 0.4 if early else 0.54, rtol=1e-5)


@pytest.mark.parametrize("stops", [(), (2,)])
def test_two_steps_with_a_beam_per_token_equal_an_exhaustive_search(stops):
    found = search(beams=V, max_new_tokens=2, stop_token_ids=stops)
    for row, start in enumerate(STARTS):
        every = [[*start, stop] for stop in stops]
        pairs = itertools.product([t for t in range(V) if t not in stops], range(V))
        every += [[*start, *pair] for pair in pairs]
        every = sorted(((score(tokens, len(start)), tokens) for tokens in every), reverse=True)
        beams = hypotheses(found, row)
        assert [tokens for tokens, _ in beams] == [tokens for _, tokens in every[:V]]
        expected = [value for value, _ in every[:V]]
        np.testing.assert_allclose([value for _, value in beams], expected, rtol=1e-5)


@pytest.mark.slow_on("jax")
def test_rows_are_independent():
    together = search(stop_token_ids=(0,), length_penalty=0.6)
    for row, start in enumerate(STARTS):
        alone = search(np.array([start]), None, stop_token_ids=(0,), length_penalty=0.6)
        for (tokens, value), (own_tokens, own_value) in zip(
            hypotheses(together, row), hypotheses(alone, 0), strict=True
        ):
            assert tokens == own_tokens
            np.testing.assert_allclose(value, own_value, rtol=1e-5)


def test_a_row_may_use_fewer_beams():
    found = search(active_beams=tensors(np.array([1, 3, 2], "int32")), stop_token_ids=(0,))
    assert np.isfinite(found["scores"]).sum(1).tolist() == [1, 3, 2]
    assert hypotheses(found, 0)[0][0] == follow(STARTS[0], 6, (0,))
    two = search(beams=2, stop_token_ids=(0,))
    assert [t for t, _ in hypotheses(found, 2)[:2]] == [t for t, _ in hypotheses(two, 2)]


def test_a_larger_length_penalty_gives_longer_outputs():
    def length(exponent):
        found = search(stop_token_ids=(0,), length_penalty=exponent)
        return (found["lengths"][:, 0] - LENGTHS).sum()

    assert length(0.0) < length(2.0)


def test_compiled_and_eager_search_agree():
    def run(prompts, lengths):
        return decoding.beam_search(
            step,
            prompts,
            prompt_lengths=lengths,
            cache=empty(3),
            beams=3,
            max_new_tokens=6,
            stop_token_ids=(0,),
        )

    found, eager = arrays(decoding.compiled(run)(PROMPTS, LENGTHS)), search(stop_token_ids=(0,))
    np.testing.assert_array_equal(found["token_ids"], eager["token_ids"])
    np.testing.assert_allclose(found["scores"], eager["scores"], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 0}, "`beams` must be a positive integer, got 0"),
        ({"beams": 2.5}, "`beams` must be a positive integer, got 2.5"),
        ({"beams": True}, "`beams` must be a positive integer, got True"),
        ({"beams": None}, "`beams` must be a positive integer, got None"),
        ({"length_penalty": float("nan")}, "`length_penalty` must be finite, got nan"),
        ({"length_penalty": None}, "`length_penalty` must be finite, got None"),
        ({"length_penalty": "1"}, "`length_penalty` must be finite, got '1'"),
        ({"length_penalty": [1.0, 2.0]}, r"`length_penalty` must have shape .* shape \(2,\)"),
        ({"active_beams": [1, 2, 3, 1, 2]}, r"`active_beams` must have shape .* shape \(5,\)"),
        ({"active_beams": [1.5] * len(PROMPTS)}, "`active_beams` must hold integers, got float"),
        ({"stop_token_ids": [1.5]}, r"`stop_token_ids` must be a sequence of .* got \[1.5\]"),
        ({"stop_token_ids": (V,)}, rf"`stop_token_ids` must be in \[0, {V}\), got {V}"),
        ({"max_new_tokens": 8}, "`cache` must have space for 4 prompt tokens"),
        ({"prompts": PROMPTS[:, :0]}, "at least one token in each row"),
    ],
)
def test_invalid_input_raises(options, message):
    with pytest.raises(ValueError, match=message):
        search(**options)
