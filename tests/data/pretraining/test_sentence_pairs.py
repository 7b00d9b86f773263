import numpy as np
import pytest
import tensorflow as tf

from keras_attn.data import SentencePairs


def numbered(sizes):
    """Documents with consecutive token ids: an id tells its position."""
    count = iter(range(10**6))
    return tf.ragged.constant(
        [[[next(count) for _ in range(n)] for n in document] for document in sizes],
        ragged_rank=2,
        dtype=tf.int32,
    )


GENERATOR = np.random.default_rng(1)
SIZES = [GENERATOR.integers(1, 19, size=n).tolist() for n in [1, 2, 11, 31, 1, 7, 3, 43]]
DOCUMENTS = numbered(SIZES)
STARTS = np.concatenate([[0], np.cumsum([n for document in SIZES for n in document])])
DOCUMENT_OF = np.repeat(np.arange(len(SIZES)), [sum(document) for document in SIZES])
BORDERS = sum(len(document) - 1 for document in SIZES)
LENGTH = 37


def draw(numbers, seed=5, length=LENGTH):
    pairs = tf.function(SentencePairs(DOCUMENTS, length, seed).__call__)
    a, b, is_random = pairs(tf.constant(numbers, tf.int64))
    return a.to_list(), b.to_list(), is_random.numpy()


def test_pairs_join_at_paragraph_boundaries_or_are_random():
    for a, b, is_random in zip(*draw(range(7 * BORDERS)), strict=True):
        assert a
        assert b
        assert len(a) + len(b) <= LENGTH
        for run in (a, b):
            assert run == list(range(run[0], run[-1] + 1))
            assert DOCUMENT_OF[run[0]] == DOCUMENT_OF[run[-1]]
        assert a[-1] + 1 in STARTS
        assert b[0] in STARTS
        if is_random:
            assert DOCUMENT_OF[a[0]] != DOCUMENT_OF[b[0]]
        else:
            assert a[-1] + 1 == b[0]
            assert DOCUMENT_OF[a[0]] == DOCUMENT_OF[b[0]]


def test_the_first_segment_is_whole_paragraphs_unless_the_last_is_too_long():
    for a, _, _ in zip(*draw(range(5 * BORDERS)), strict=True):
        last = STARTS[np.searchsorted(STARTS, a[-1] + 1) - 1]
        assert a[0] in STARTS or a[0] > last


def test_pairs_fill_the_length_as_far_as_documents_allow():
    for a, b, _ in zip(*draw(range(5 * BORDERS)), strict=True):
        if len(a) + len(b) < LENGTH:
            b_ends = b[-1] + 1 == len(DOCUMENT_OF) or DOCUMENT_OF[b[-1] + 1] != DOCUMENT_OF[b[-1]]
            assert b_ends
            before = [start for start in STARTS if start < a[0]]
            a_begins = a[0] == 0 or DOCUMENT_OF[a[0] - 1] != DOCUMENT_OF[a[0]]
            assert a_begins or a[-1] + 1 - before[-1] + len(b) > LENGTH


def test_every_boundary_occurs_once_per_pass_in_a_new_order():
    a, _, _ = draw(range(2 * BORDERS))
    ends = np.array([run[-1] for run in a])
    assert len(set(ends[:BORDERS])) == len(set(ends[BORDERS:])) == BORDERS
    assert (ends[:BORDERS] != ends[BORDERS:]).any()


def test_half_of_the_pairs_are_random_and_from_every_document():
    a, b, is_random = draw(range(4000))
    assert abs(is_random.mean() - 0.5) < 4.5 * np.sqrt(0.25 / 4000)
    several = {i for i, document in enumerate(SIZES) if len(document) > 1}
    random = [(x, y) for x, y, is_one in zip(a, b, is_random, strict=True) if is_one]
    assert {DOCUMENT_OF[x[0]] for x, _ in random} == several
    assert {DOCUMENT_OF[y[0]] for _, y in random} == several


def test_a_pair_depends_only_on_seed_and_number():
    whole, part, other = draw(range(60)), draw(range(41, 53)), draw(range(60), seed=6)
    assert whole[0][41:53] == part[0]
    assert whole[1][41:53] == part[1]
    assert whole[2][41:53].tolist() == part[2].tolist()
    assert whole[0] != other[0]


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match="two documents .* got 1 of them among 3"):
        SentencePairs(numbered([[2, 3], [5], [7]]), LENGTH, 0)
    with pytest.raises(ValueError, match="`length` must be at least 4 tokens, got 3"):
        SentencePairs(DOCUMENTS, 3, 0)


def test_the_argument_room_is_deprecated():
    with pytest.warns(DeprecationWarning, match="`room` is deprecated: use `length`"):
        assert SentencePairs(DOCUMENTS, room=LENGTH, seed=0).length == LENGTH
