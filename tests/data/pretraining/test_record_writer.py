import json

import numpy as np
import pytest
import tensorflow as tf

from keras_attn.data import read_records, write_records
from keras_attn.data.pretraining.record_writer import groups, write_shard
from keras_attn.data.pretraining.records import parse
from tests.data.pretraining.small_records import (
    LENGTH,
    PARAGRAPHS,
    TOKENIZER,
    shard,
    write,
    write_text,
)

try:
    import apache_beam  # noqa: F401

    HAS_BEAM = True
except ModuleNotFoundError:
    HAS_BEAM = False
FIRST = 5  # the id of the first word
DOCUMENT = 3 * PARAGRAPHS  # words


def pairs(path):
    first, second, is_random = parse(list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()))
    return list(zip(first.to_list(), second.to_list(), is_random.numpy(), strict=True))


def document_of(tokens):
    """The document of the tokens, which must be a contiguous span of it."""
    assert tokens == list(range(tokens[0], tokens[0] + len(tokens)))
    (number,) = {(token - FIRST) // DOCUMENT for token in tokens}
    return number


def test_a_record_holds_two_spans_of_text(tmp_path):
    paths = write_text(tmp_path)
    line = write_shard(shard(tmp_path, paths))
    found = pairs(tmp_path / "train-0")
    assert line["examples"] == len(found) > 20
    assert line["bytes"] == (tmp_path / "train-0").stat().st_size
    for first, second, is_random in found:
        assert len(first) + len(second) <= LENGTH - 3
        assert (document_of(first) != document_of(second)) == is_random
        if not is_random:
            assert second[0] == first[-1] + 1
    assert 0 < sum(is_random for *_, is_random in found) < len(found)
    write_shard(shard(tmp_path, paths, "again"))
    write_shard(shard(tmp_path, paths, "train-0"))
    assert pairs(tmp_path / "train-0") == found != pairs(tmp_path / "again")


def test_a_document_is_in_one_split(tmp_path):
    write(tmp_path, write_text(tmp_path), held_out=0.3)
    splits = [
        {document_of(run) for name in names for pair in pairs(tmp_path / name) for run in pair[:2]}
        for names in (["train-0", "train-1", "train-2"], ["held_out-0"])
    ]
    assert not splits[0] & splits[1]
    assert len(splits[0]) > 10 and len(splits[1]) > 2


def test_at_most_two_groups_are_held_in_memory(monkeypatch):
    monkeypatch.setattr("keras_attn.data.pretraining.record_writer.GROUP", 10)
    read = []

    def documents():
        for number in range(11):
            read.append(number)
            yield ["a" * 3, "b" * 2]

    found = groups(documents())
    assert len(next(found)) == 2 and len(read) == 4
    sizes = [2, *map(len, found)]
    assert sizes == [2, 2, 2, 2, 3]


def test_an_interrupted_shard_leaves_no_file(tmp_path):
    paths = write_text(tmp_path)
    with paths[2].open("ab") as file:
        file.write(b"\xff broken\n")
    with pytest.raises(ValueError, match="2.txt whose line .* is not"):
        write_shard(shard(tmp_path, paths))
    assert not (tmp_path / "train-0").exists()
    with pytest.raises(ValueError, match="without records.json, which is written when all"):
        read_records(tmp_path, TOKENIZER, batch_size=1, length=LENGTH)


def test_invalid_arguments_raise(tmp_path):
    single = tmp_path / "single.txt"
    single.write_text("w1 w2\n\nw3\nw4\n")
    with pytest.raises(ValueError, match="two paragraphs for each shard, got .*single.txt"):
        write_shard(shard(tmp_path, [single]))
    for name, value in (("shards", 0), ("seed", -1)):
        with pytest.raises(ValueError, match=f"`{name}` must be at least .*, got {value}"):
            write_records(single, tmp_path, TOKENIZER, length=LENGTH, **{name: value})
    with pytest.raises(ValueError, match=r"`held_out` must be in \[0, 1\), got 1"):
        write_records(single, tmp_path, TOKENIZER, length=LENGTH, held_out=1)
    if not HAS_BEAM:
        with pytest.raises(ImportError, match=r"apache-beam: pip install keras_attn\[beam\]"):
            write_records(single, tmp_path, TOKENIZER, length=LENGTH)


@pytest.mark.skipif(not HAS_BEAM, reason="needs apache-beam")
@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_records_written_by_beam_can_be_read(tmp_path):
    paths = write_text(tmp_path)
    options = ["--direct_running_mode=in_memory", "--direct_num_workers=1"]
    write_records(
        paths, tmp_path / "records", TOKENIZER, length=LENGTH, shards=2, held_out=0.3,
        beam_options=options,
    )  # fmt: skip
    manifest = json.loads((tmp_path / "records" / "records.json").read_text())
    names = [line["name"] for line in manifest["train"]]
    assert names == ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]
    stream = read_records(tmp_path / "records", TOKENIZER, batch_size=2, length=LENGTH)
    features, _, weights = next(iter(stream))
    assert features["token_ids"].shape == (2, LENGTH)
    assert np.all(weights["masked_lm"].numpy().sum(1) > 0)
