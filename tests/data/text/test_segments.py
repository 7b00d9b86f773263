import numpy as np
import pytest
import tensorflow as tf

from keras_attn.data import pack

CLS, SEP, PAD = 101, 102, 7


def truncated(segments, length):
    """BERT's original truncation: the longest segment loses its last token."""
    segments = [list(segment) for segment in segments]
    while sum(map(len, segments)) > length - 1 - len(segments):
        longest = max(range(len(segments)), key=lambda i: (len(segments[i]), i))
        segments[longest].pop()
    ids, numbers = [CLS], [0]
    for number, segment in enumerate(segments):
        ids += [*segment, SEP]
        numbers += [number] * (len(segment) + 1)
    return ids, numbers


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("length", [7, 11, 23])
@pytest.mark.parametrize("pad_to_length", [True, False])
def test_packed_rows_equal_a_python_loop(count, length, pad_to_length):
    generator = np.random.default_rng(length)
    sizes = generator.integers(0, 14, size=(41, count))
    batch = [[generator.integers(1, 90, size=n).tolist() for n in row] for row in sizes]
    segments = [
        tf.ragged.constant([row[i] for row in batch], ragged_rank=1, dtype=tf.int64)
        for i in range(count)
    ]
    packed = pack(
        segments, length=length, cls_id=CLS, sep_id=SEP, pad_id=PAD, pad_to_length=pad_to_length
    )
    rows = [truncated(row, length) for row in batch]
    width = length if pad_to_length else max(len(ids) for ids, _ in rows)
    assert packed["token_ids"].dtype == packed["segment_ids"].dtype == tf.int32
    assert packed["token_ids"].shape == (41, width)
    for i, (ids, numbers) in enumerate(rows):
        rest = width - len(ids)
        assert packed["token_ids"][i].numpy().tolist() == ids + [PAD] * rest
        assert packed["segment_ids"][i].numpy().tolist() == numbers + [0] * rest
        assert packed["padding_mask"][i].numpy().tolist() == [True] * len(ids) + [False] * rest


def test_the_width_is_static_in_a_graph():
    spec = tf.RaggedTensorSpec([None, None], tf.int32)
    graph = tf.function(lambda a: pack([a], length=5, cls_id=1, sep_id=2, pad_id=0))
    outputs = graph.get_concrete_function(spec).structured_outputs
    assert {tuple(tensor.shape) for tensor in outputs.values()} == {(None, 5)}


def test_packing_uses_only_core_operations():
    """Old servers do not have the trimmers of tensorflow_text."""
    spec = tf.RaggedTensorSpec([None, None], tf.int32)
    graph = tf.function(lambda a, b: pack([a, b], length=5, cls_id=1, sep_id=2, pad_id=0))
    types = {op.type for op in graph.get_concrete_function(spec, spec).graph.get_operations()}
    assert "GatherV2" in types
    assert not [name for name in types if ">" in name]


def test_invalid_arguments_raise():
    ids = {"cls_id": 1, "sep_id": 2, "pad_id": 0}
    with pytest.raises(ValueError, match="`segments` must hold one segment or more, got none"):
        pack([], length=5, **ids)
    segment = tf.ragged.constant([[1]])
    with pytest.raises(ValueError, match="`length` must be at least 5 for 2 segments, got 4"):
        pack([segment, segment], length=4, **ids)


@pytest.mark.parametrize("count", [1, 2])
def test_an_empty_batch_has_the_width_of_an_empty_row(count):
    none = tf.RaggedTensor.from_row_lengths(tf.zeros([0], tf.int32), [])
    for run in (pack, tf.function(pack, autograph=False)):
        packed = run([none] * count, length=9, cls_id=2, sep_id=3, pad_id=0, pad_to_length=False)
        assert {tuple(value.shape) for value in packed.values()} == {(0, 1 + count)}
