"""The loop and greedy search against plain numpy."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_attn import decoding
from tests.backend import arrays, tensors
from tests.decoding.histories import TABLE, V, empty, follow, step

PROMPTS = np.array([[3, 1, 4, 1, 5], [2, 6, 0, 0, 0], [5, 3, 5, 0, 0]], "int32")
LENGTHS = np.array([5, 2, 3], "int32")


def greedy(prompts=PROMPTS, lengths=LENGTHS, cache=None, **options):
    options = {"max_new_tokens": 6, **options}
    cache = empty(len(prompts)) if cache is None else cache
    return arrays(decoding.greedy(step, prompts, prompt_lengths=lengths, cache=cache, **options))


def rows(found):
    """The tokens of each row up to its end, after which there must be only padding."""
    for row, end in zip(found["token_ids"], found["lengths"], strict=True):
        assert (row[end:] == 0).all()
    pairs = zip(found["token_ids"], found["lengths"], strict=True)
    return [row[:end].tolist() for row, end in pairs]


def test_rows_are_independent():
    expected = [follow(row[:end], 6) for row, end in zip(PROMPTS, LENGTHS, strict=True)]
    found = greedy()
    assert found["token_ids"].shape == (3, 11)
    assert rows(found) == expected


def test_numpy_integers_are_accepted():
    assert greedy(max_new_tokens=np.int64(4))["token_ids"].shape == (3, 9)
    found = arrays(
        decoding.beam_search(
            step, PROMPTS, cache=empty(3), max_new_tokens=np.int32(2), beams=np.int64(2)
        )
    )
    assert found["token_ids"].shape == (3, 2, 7)


def recurrent(token_ids, index, cache, context):
    """`step` as a recurrence: the state is a running sum, so each token must enter once."""
    assert token_ids.shape[1] == 1
    total, (count,) = cache["total"], cache["counts"]
    rows = ops.take(ops.reshape(TABLE, (-1, V)), token_ids[:, 0] + V * count, axis=0)
    total = total + rows
    return total, {"total": total, "counts": [count + 1]}


def test_a_recurrent_step_gets_each_token_once_and_any_state_structure():
    state = {"total": ops.zeros((3, V)), "counts": [ops.zeros((3,), "int32")]}
    options = {"cache": state, "prompt_lengths": LENGTHS, "prefill": False, "max_new_tokens": 6}
    found = arrays(decoding.greedy(recurrent, PROMPTS, **options))
    expected = [follow(row[:end], 6) for row, end in zip(PROMPTS, LENGTHS, strict=True)]
    assert rows(found) == expected
    best = arrays(decoding.beam_search(recurrent, PROMPTS, beams=3, **options))
    same = arrays(
        decoding.beam_search(
            step, PROMPTS, beams=3, prompt_lengths=LENGTHS, cache=empty(3), max_new_tokens=6
        )
    )
    np.testing.assert_array_equal(best["token_ids"], same["token_ids"])
    np.testing.assert_allclose(best["scores"], same["scores"], rtol=1e-5)


def test_a_tensor_of_max_new_tokens_without_max_length_raises():
    options = {"cache": {"total": ops.zeros((3, V))}, "max_new_tokens": tensors(np.array(2))}
    with pytest.raises(ValueError, match="`max_length` must be given where `max_new_tokens` is"):
        decoding.greedy(recurrent, PROMPTS, prefill=False, **options)


def test_prompts_may_have_one_token():
    assert rows(greedy(PROMPTS[:, :1], None)) == [follow(row[:1], 6) for row in PROMPTS]


def test_a_row_ends_with_the_first_stop_token_that_it_adds():
    free = [follow(row[:end], 6) for row, end in zip(PROMPTS, LENGTHS, strict=True)]
    stops = (free[0][6], free[1][4])  # one is also in a prompt, where it does not stop the row
    assert any(stop in row[:end] for stop in stops for row, end in zip(free, LENGTHS, strict=True))
    expected = [follow(r[:end], 6, stops) for r, end in zip(PROMPTS, LENGTHS, strict=True)]
    assert len({len(row) for row in expected}) > 1
    assert rows(greedy(stop_token_ids=stops)) == expected


def test_each_row_may_have_its_own_limit():
    found = greedy(max_new_tokens=tensors(np.array([1, 9, 4], "int32")))
    assert found["token_ids"].shape == (3, 11)  # the cache's length
    limits = zip(PROMPTS, LENGTHS, (1, 9, 4), strict=True)
    assert rows(found) == [follow(row[:end], new) for row, end, new in limits]


def test_compiled_and_eager_search_agree():
    def run(prompts, lengths):
        return decoding.greedy(
            step, prompts, prompt_lengths=lengths, cache=empty(3), max_new_tokens=6
        )

    found = arrays(decoding.compiled(run)(PROMPTS, LENGTHS))
    assert rows(found) == rows(greedy())


@pytest.mark.backends("tensorflow", reason="unknown lengths are TensorFlow's")
def test_batch_and_length_may_be_unknown():
    import tensorflow as tf

    unknown = [tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None,), tf.int32)]

    @tf.function(input_signature=unknown, autograph=False)
    def run(prompts, lengths):
        cache = empty(tf.shape(prompts)[0])
        return decoding.greedy(step, prompts, prompt_lengths=lengths, cache=cache, max_new_tokens=6)

    assert rows(arrays(run(PROMPTS, LENGTHS))) == rows(greedy())


@pytest.mark.backends("tensorflow", "torch", reason="keras-hub's samplers keep state of their own")
def test_a_keras_hub_sampler_can_choose_tokens():
    import keras_hub

    sampler = keras_hub.samplers.TopKSampler(k=1)

    def choose(logits, _):
        return sampler.get_next_token(sampler.compute_probabilities(logits))

    found = decoding.decode(
        step, choose, PROMPTS, prompt_lengths=LENGTHS, cache=empty(3), max_new_tokens=6
    )
    assert rows(arrays(found)) == rows(greedy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 7}, "`cache` must have space for 5 prompt tokens .* length 11 for 7"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be a positive integer, got 0"),
        ({"max_new_tokens": 2.5}, "`max_new_tokens` must be a positive integer, got 2.5"),
        ({"max_new_tokens": True}, "`max_new_tokens` must be a positive integer, got True"),
        ({"max_new_tokens": None}, "`max_new_tokens` must be a positive integer, got None"),
        ({"prompts": PROMPTS + 0.5}, "`prompt_ids` must hold integers, got float64"),
        ({"lengths": [1.9, 2.0, 3.0]}, "`prompt_lengths` must hold integers, got float64"),
        ({"lengths": [1, 2]}, r"`prompt_lengths` must have shape .* \(3,\), got shape \(2,\)"),
        ({"stop_token_ids": [1.5]}, r"`stop_token_ids` must be a sequence of .* got \[1.5\]"),
        ({"stop_token_ids": 3}, "`stop_token_ids` must be a sequence of integers, got 3"),
        ({"stop_token_ids": None}, "`stop_token_ids` must be a sequence of integers, got None"),
        ({"prompts": PROMPTS[:, :0]}, r"at least one token in each row, got shape \(3, 0\)"),
        ({"prompts": PROMPTS[0]}, r"`prompt_ids` must have shape .* got shape \(5,\)"),
        ({"lengths": np.array([5, 0, 3])}, r"`prompt_lengths` must be in \[1, 5\], got 0"),
        ({"lengths": np.array([6, 2, 3])}, r"`prompt_lengths` must be in \[1, 5\], got 6"),
        ({"stop_token_ids": (1, V)}, rf"`stop_token_ids` must be in \[0, {V}\), got {V}"),
        ({"max_new_tokens": [2, 3]}, r"`max_new_tokens` must have shape .* got shape \(2,\)"),
        ({"max_new_tokens": [1.5] * 3}, "`max_new_tokens` must hold integers, got float64"),
        ({"max_length": 10.5}, "`max_length` must be a positive integer, got 10.5"),
        ({"max_length": "11"}, "`max_length` must be a positive integer, got '11'"),
        ({"padding_id": None}, "`padding_id` must be an integer, got None"),
        ({"padding_id": 0.5}, "`padding_id` must be an integer, got 0.5"),
        ({"stop_token_ids": (-1,)}, rf"`stop_token_ids` must be in \[0, {V}\), got -1"),
    ],
)
def test_invalid_input_raises(options, message):
    with pytest.raises(ValueError, match=message):
        greedy(**{**options, "cache": empty(3)})


def test_a_compiled_function_uses_updated_weights():
    variable = keras.Variable([1.0, 2.0])
    double = decoding.compiled(lambda factor: variable * factor, [variable])
    np.testing.assert_allclose(arrays(double(ops.ones(()) * 2)), [2, 4])
    variable.assign([5.0, 7.0])
    np.testing.assert_allclose(arrays(double(ops.ones(()) * 2)), [10, 14])
