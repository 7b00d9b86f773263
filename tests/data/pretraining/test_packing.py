import numpy as np
import pytest
import tensorflow as tf

from keras_attn.data import pack_rows

N, L, T, S = 47, 13, 23, 3


def sequences(seed=0):
    """N sequences of distinct tokens, with a label for each sequence and for each token."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, L + 1, N)
    mask = np.arange(L) < sizes[:, None]
    ids = np.where(mask, np.arange(N * L).reshape(N, L) + 10, 3).astype("int32")
    features = {"token_ids": ids, "segment_ids": ids % 2, "padding_mask": mask}
    return features, {"whole": np.arange(N), "token": 7 * ids}


def first_fit(sizes):
    """First-fit packing of the longest first: the sequences of each row."""
    rows = []
    for sequence in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        for row in rows:
            if len(row) < S and sum(sizes[i] for i in row) + sizes[sequence] <= T:
                row.append(sequence)
                break
        else:
            rows.append([sequence])
    return rows


def packed(*parts, batch=N):
    dataset = tf.data.Dataset.from_tensor_slices(parts).batch(batch)
    dataset = pack_rows(dataset, length=T, batch_size=5, max_sequences=S, pad_id=4)
    batches = list(dataset.as_numpy_iterator())
    return tf.nest.map_structure(lambda *x: np.concatenate(x), *batches), batches


def test_rows_equal_first_fit_packing():
    features, labels = sequences()
    (rows, row_labels, weights), batches = packed(features, labels)
    mask, ids = features["padding_mask"], features["token_ids"]
    expected = first_fit(mask.sum(1))
    assert len(rows["token_ids"]) == len(expected)
    assert {len(batch[0]["token_ids"]) for batch in batches[:-1]} == {5}
    for index, row in enumerate(expected):
        tokens = np.concatenate([ids[i][mask[i]] for i in row])
        rest = T - len(tokens)
        sizes = [mask[i].sum() for i in row]
        got = {name: values[index].tolist() for name, values in rows.items()}
        assert got["token_ids"] == [*tokens, *[4] * rest]
        assert got["segment_ids"] == [*(tokens % 2), *[0] * rest]
        assert got["padding_mask"] == [True] * len(tokens) + [False] * rest
        assert got["sequence_ids"] == [*np.repeat(np.arange(len(row)) + 1, sizes), *[0] * rest]
        assert got["positions"] == [p for size in sizes for p in range(size)] + [0] * rest
        missing = S - len(row)
        assert got["first_positions"] == [*(np.cumsum(sizes) - sizes), *[0] * missing]
        assert row_labels["whole"][index].tolist() == [*row, *[0] * missing]
        assert row_labels["token"][index].tolist() == [*(7 * tokens), *[0] * rest]
        assert weights["whole"][index].tolist() == [1] * len(row) + [0] * missing
        assert weights["token"][index].tolist() == [1] * len(tokens) + [0] * rest


def test_every_token_and_sample_weight_is_kept():
    features, labels = sequences(1)
    weights = {"whole": np.arange(N) + 0.5, "token": labels["token"] / 3}
    (rows, row_labels, row_weights), _ = packed(features, labels, weights, batch=11)
    mask = features["padding_mask"]
    shown = rows["padding_mask"]
    assert sorted(rows["token_ids"][shown]) == sorted(features["token_ids"][mask])
    real = row_weights["whole"] > 0
    assert sorted(row_labels["whole"][real]) == list(range(N))
    np.testing.assert_allclose(row_weights["whole"][real], row_labels["whole"][real] + 0.5)
    np.testing.assert_allclose(row_weights["token"], row_labels["token"] / 3, rtol=1e-6)
    starts = np.take_along_axis(rows["token_ids"], rows["first_positions"], 1)[real]
    assert sorted(starts) == sorted(features["token_ids"][:, 0])


def test_invalid_arguments_raise():
    features, labels = sequences()
    dataset = tf.data.Dataset.from_tensors((features, labels))
    with pytest.raises(ValueError, match="`max_sequences` must be positive, got 0"):
        pack_rows(dataset, length=T, batch_size=1, max_sequences=0)
    ids = tf.data.Dataset.from_tensors(({"ids": features["token_ids"]}, labels))
    with pytest.raises(ValueError, match="must have a feature padding_mask, got ids"):
        pack_rows(ids, length=T, batch_size=1)
    short = pack_rows(dataset, length=L - 1, batch_size=1)
    message = "`length` must be at least that of the longest sequence, got 12"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(short)


@pytest.mark.parametrize("times", [3, pytest.param(300, marks=pytest.mark.slow)])
def test_a_cache_after_packing_holds_every_batch(times):
    """The pipeline must not end with a prefetch: about one in a hundred iterators over a cache that
    are dropped after their first element would leave a cache of one element.
    """
    features = {"token_ids": np.ones([30, 2], "int32"), "padding_mask": np.ones([30, 2], bool)}
    rows = tf.data.Dataset.from_tensor_slices((features, np.arange(30))).batch(30)
    rows = pack_rows(rows, length=2, batch_size=1)
    assert "Prefetch" not in repr(rows)
    for _ in range(times):
        cached = rows.cache()
        next(iter(cached))
        assert sum(1 for _ in cached) == 30


def test_labels_and_masks_of_other_shapes_raise():
    features, _ = sequences()
    with pytest.raises(
        ValueError, match=r"labels and weights of that shape or \[N\], got \(.*, 2\)"
    ):
        packed(features, np.zeros([N, 2]))
    with pytest.raises(
        ValueError, match=r"`padding_mask` must have the shape \[N, T\], got \(.*\)"
    ):
        packed({**features, "padding_mask": np.ones([N])}, np.zeros([N]))
