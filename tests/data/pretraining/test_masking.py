import numpy as np
import pytest
import tensorflow as tf

from keras_attn.data import BertTokenizer, TokenMasker
from keras_attn.data.text.vocabulary import SPECIAL_TOKENS

PAD, UNK, CLS, SEP, MASK = range(5)
WORDS = [f"w{i}" for i in range(53)]
VOCABULARY = [*SPECIAL_TOKENS, *WORDS, *("##" + word for word in WORDS)]
FIRST_CONTINUATION = 5 + len(WORDS)
TOKENIZER = BertTokenizer(VOCABULARY)


def seeds_of(count, seed=3):
    return np.stack([np.full(count, seed), np.arange(count)], axis=1)


def rows_of(count, length, seed=0):
    """[CLS] tokens [SEP] tokens [SEP] padding, with some [MASK] among the tokens."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(5, len(VOCABULARY), size=(count, length))
    rows[generator.random(rows.shape) < 0.02] = MASK
    rows[:, 0] = CLS
    for row, used in zip(rows, generator.integers(5, length, size=count), strict=True):
        row[used // 2] = row[used - 1] = SEP
        row[used:] = PAD
    return rows


def run(masker, rows, seed=3):
    masked = tf.function(masker.__call__)(tf.constant(rows, tf.int32), seeds_of(len(rows), seed))
    return {key: value.numpy() for key, value in masked.items()}


@pytest.mark.parametrize("whole_word", [False, True])
def test_labels_positions_and_weights_are_consistent(whole_word):
    rows = rows_of(211, 47)
    masked = run(TokenMasker(TOKENIZER, 7, whole_word=whole_word), rows)
    for i, row in enumerate(rows):
        count = int(masked["masked_weights"][i].sum())
        assert masked["masked_weights"][i].tolist() == [1] * count + [0] * (7 - count)
        positions = masked["masked_positions"][i, :count]
        assert (np.diff(positions) > 0).all()
        assert (masked["masked_positions"][i, count:] == 0).all()
        assert (masked["masked_ids"][i, :count] == row[positions]).all()
        assert (masked["masked_ids"][i, count:] == PAD).all()
        assert not np.isin(row[positions], [PAD, CLS, SEP, MASK]).any()
        untouched = np.setdiff1d(np.arange(47), positions)
        assert (masked["token_ids"][i, untouched] == row[untouched]).all()


@pytest.mark.parametrize(("rate", "most"), [(0.15, 9), (0.4, 11)])
def test_the_number_of_predictions_follows_the_rate_and_its_limit(rate, most):
    rows = rows_of(211, 47)
    masked = run(TokenMasker(TOKENIZER, most, rate), rows)
    candidates = (~np.isin(rows, [PAD, CLS, SEP, MASK])).sum(axis=1)
    wanted = np.clip(np.floor(np.float32(rate) * candidates + 0.5), 1, most)
    assert masked["masked_weights"].sum(axis=1).tolist() == wanted.tolist()


def test_positions_are_uniform_and_replacements_are_80_10_10():
    length, draws = 23, 9000
    rows = np.tile(np.arange(4, 4 + length), (draws, 1))
    rows[:, 0] = CLS  # 22 candidates, 3 predictions
    masked = run(TokenMasker(TOKENIZER, 5), rows)
    real = masked["masked_weights"] == 1
    assert real.sum() == 3 * draws
    hits = np.bincount(masked["masked_positions"][real], minlength=length)
    rate = 3 / 22
    assert hits[0] == 0
    assert np.abs(hits[1:] - draws * rate).max() < 4.5 * np.sqrt(draws * rate * (1 - rate))

    now = np.take_along_axis(masked["token_ids"], masked["masked_positions"], axis=1)[real]
    before = masked["masked_ids"][real]
    ordinary = len(VOCABULARY) - 5
    kept_by_chance = 0.1 / ordinary
    for seen, expected in (
        (now == MASK, 0.8),
        (now == before, 0.1 + kept_by_chance),
        ((now != MASK) & (now != before), 0.1 - kept_by_chance),
    ):
        spread = np.sqrt(expected * (1 - expected) / len(now))
        assert abs(seen.mean() - expected) < 4.5 * spread
    random = now[(now != MASK) & (now != before)]
    assert random.min() >= 5
    assert len(np.unique(random)) == ordinary


def whole_words(row, order, wanted):
    """Choose words in random order, skipping a word that exceeds the limit."""
    words = []
    for i, token in enumerate(row):
        if token < 5:
            continue
        follows = i and row[i - 1] >= 5 and token >= FIRST_CONTINUATION
        if follows:
            words[-1].append(i)
        else:
            words.append([i])
    chosen = []
    for word in sorted(range(len(words)), key=lambda w: order[w]):
        if len(chosen) + len(words[word]) <= wanted:
            chosen += words[word]
    return sorted(chosen)


def test_whole_word_masking_equals_a_python_loop():
    rows = rows_of(97, 61, seed=5)
    masked = run(TokenMasker(TOKENIZER, 13, whole_word=True), rows)
    fewer = 0
    for i, row in enumerate(rows):
        order = tf.random.stateless_uniform([61 + 2 * 13], seeds_of(97)[i], alg="philox").numpy()
        candidates = (row >= 5).sum()
        wanted = min(13, max(1, int(np.float32(0.15) * candidates + 0.5)))
        expected = whole_words(row, order, wanted)
        count = int(masked["masked_weights"][i].sum())
        assert masked["masked_positions"][i, :count].tolist() == expected
        fewer += count < wanted
    assert fewer  # rows in which no further word fits do occur


def test_a_row_depends_only_on_its_own_seed():
    masker = TokenMasker(TOKENIZER, 7)
    rows = rows_of(31, 47)
    whole = run(masker, rows)
    again = run(masker, rows)
    other = run(masker, rows, seed=4)
    part = masker(tf.constant(rows[11:19], tf.int32), seeds_of(31)[11:19])
    for key, value in whole.items():
        assert (value == again[key]).all()
        assert (value[11:19] == part[key].numpy()).all()
    assert (whole["masked_positions"] != other["masked_positions"]).any()


def test_rows_without_candidates_or_with_few_are_padded():
    masked = run(TokenMasker(TOKENIZER, 7), np.array([[CLS, SEP, PAD], [CLS, 9, SEP]]))
    assert masked["masked_weights"].tolist() == [[0] * 7, [1] + [0] * 6]
    assert masked["masked_ids"][1, 0] == 9


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match=r"`rate` must be in \(0, 1\], got 0"):
        TokenMasker(TOKENIZER, 3, rate=0)
    with pytest.raises(ValueError, match="`max_predictions` must be at least 1, got 0"):
        TokenMasker(TOKENIZER, 0)
