import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from keras_attn.data import BertTokenizer, read_records, sample_records
from tests.data.pretraining.small_records import LENGTH, TOKENIZER, write, write_text


@pytest.fixture
def records(tmp_path):
    write(tmp_path, write_text(tmp_path), held_out=0.3)
    return tmp_path


def stream(records, count, **options):
    options = {"batch_size": 1, "length": LENGTH, "seed": 5, **options}
    batches = read_records(records, TOKENIZER, **options).take(count).as_numpy_iterator()
    return list(batches)


def whole(batch):
    """The rows before masking."""
    features, labels, weights = batch
    rows = features["token_ids"].copy()
    for row, column in zip(*np.nonzero(weights["masked_lm"]), strict=True):
        rows[row, features["masked_positions"][row, column]] = labels["masked_lm"][row, column]
    return [tuple(row) for row in rows]


def test_passes_differ_in_order_and_masks_but_not_in_text(records):
    manifest = json.loads((records / "records.json").read_text())
    total = sum(shard["examples"] for shard in manifest["train"])
    batches = stream(records, 2 * total)
    rows = [whole(batch)[0] for batch in batches]
    first, second = rows[:total], rows[total:]
    assert sorted(first) == sorted(second) and first != second
    masks = [tuple(batch[0]["masked_positions"][0]) for batch in batches]
    assert dict(zip(first, masks[:total], strict=True)) != dict(
        zip(second, masks[total:], strict=True)
    )


@pytest.mark.parametrize("start", [pytest.param(4, marks=pytest.mark.slow), 76])
def test_start_continues_the_stream_at_that_example(records, start):
    """Also in a later pass, and with another batch size."""
    whole_run = list(itertools.chain(*map(whole, stream(records, start // 4 + 3, batch_size=4))))
    rest = stream(records, 6, start=start, batch_size=2)
    assert list(itertools.chain(*map(whole, rest))) == whole_run[start : start + 12]
    last = stream(records, start // 4 + 3, batch_size=4)[-1]
    np.testing.assert_array_equal(rest[5][0]["masked_positions"], last[0]["masked_positions"][2:])


def test_sampled_records_are_documents_of_two_paragraphs(records):
    documents = sample_records(records, 1000, split="held_out")
    assert documents.dtype == tf.int32 and documents.ragged_rank == 2
    assert documents.bounding_shape()[1] == 2
    for first, second in documents.to_list():
        assert first + second == list(range(first[0], first[0] + len(first + second)))


def test_a_damaged_or_missing_shard_raises(records):
    shard = records / "train-1"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(tf.errors.OpError, match="shards as written, got .*train-1 damaged"):
        stream(records, 100)
    shard.write_bytes(content[:-3])
    message = f"got .*train-1 of {len(content) - 3} bytes instead of {len(content)} bytes"
    with pytest.raises(ValueError, match=message):
        stream(records, 1)
    shard.unlink()
    with pytest.raises(ValueError, match="got .*train-1 which is missing"):
        stream(records, 1)


def test_invalid_arguments_raise(records, tmp_path):
    with pytest.raises(ValueError, match="`split` must be train or held_out .*, got 'test'"):
        stream(records, 1, split="test")
    other = BertTokenizer(TOKENIZER.vocabulary[:-1])
    with pytest.raises(ValueError, match="`tokenizer` must have the vocabulary .* of 404 tokens"):
        read_records(records, other, batch_size=1, length=LENGTH)


def test_the_stream_does_not_end_with_a_prefetch(records):
    """tests/data/pretraining/test_packing.py says what a prefetch before a cache does."""
    dataset = read_records(records, TOKENIZER, batch_size=2, length=LENGTH)
    assert "Prefetch" not in repr(dataset)
