"""Reads pre-training examples from a directory of TFRecord shards.

A record is a pair of `SentencePairs`: a tf.train.Example with the tokens `first` and `second`, and
`is_random`. Masks are drawn when it is read. `records.json`, written last, lists the shards; other
files in the directory do not belong to the records.

Letters: B batch, L row length.
"""

from __future__ import annotations

import json
import os
import zlib

from keras_attn._typing import Config
from keras_attn.data._tensorflow import tf
from keras_attn.data.pretraining.streams import PairExamples, with_rows
from keras_attn.data.text.files import Path
from keras_attn.data.text.tokenizer import BertTokenizer

MANIFEST = "records.json"
CHUNK = 1 << 24  # bytes
PASS = 1 << 32  # more blocks than a pass has, so that each block has a seed of its own


def read_records(
    directory: Path,
    tokenizer: BertTokenizer,
    *,
    batch_size: int,
    length: int,
    split: str = "train",
    seed: int = 0,
    start: int = 0,
    shuffle: int = 10_000,
    max_predictions: int | None = None,
    mask_rate: float = 0.15,
    whole_word: bool = False,
) -> tf.data.Dataset:
    """An endless stream of full batches of the examples that `write_records` wrote.

    Example number i is a pure function of (records, seed, shuffle, i): to continue a run that
    stopped, use `start=steps_done * batch_size`. Each pass over the records has another order and
    other masks.

    Args:
        directory: the folder of the records.
        tokenizer: a tokenizer with the vocabulary of the records.
        batch_size: B.
        length: L; longer pairs are cut at the ends of both texts.
        split: "train" or "held_out".
        seed: an integer.
        start: the number of the first example.
        shuffle: how many examples are shuffled together, in addition to the order of the shards.
        max_predictions, mask_rate, whole_word: as in `pretraining_dataset`.

    Returns:
        A dataset of (features, labels, sample weights), as `pretraining_dataset`.

    Raises:
        ValueError: the directory has no complete records, a shard is missing or has another size,
            or the tokenizer has another vocabulary. A damaged shard ends the stream with an error
            that names it.
    """
    manifest = _manifest(directory, split)
    if vocabulary_checksum(tokenizer) != manifest["vocabulary_crc32"]:
        raise ValueError(
            "`tokenizer` must have the vocabulary that the records were written with, got a "
            f"different one of {len(tokenizer.vocabulary)} tokens"
        )
    paths, checksums = _columns(manifest[split])
    total = sum(shard["examples"] for shard in manifest[split])
    examples = PairExamples(tokenizer, length, seed, max_predictions, mask_rate, whole_word)

    def shuffled(values: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        # Dataset.shuffle would depend on the global seed too.
        draw = tf.stack([tf.constant(seed, tf.int64), number])
        return tf.random.experimental.stateless_shuffle(values, draw)

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.data.Dataset.from_tensor_slices(shuffled(tf.range(tf.size(paths)), number))
        records = order.interleave(lambda i: _records(paths[i], checksums[i]), cycle_length=8)
        return (
            records.batch(shuffle)
            .enumerate(number * PASS)
            .map(lambda block, rows: shuffled(rows, block))
            .unbatch()
        )

    def batch_of(numbers: tf.Tensor, records: tf.Tensor) -> tuple[dict, dict, dict]:
        return with_rows(examples(*parse(records), numbers), batch_size)

    passes = tf.data.Dataset.range(start // total, tf.int64.max).flat_map(one_pass)
    stream = passes.skip(start % total).enumerate(start).batch(batch_size, drop_remainder=True)
    return stream.map(batch_of, tf.data.AUTOTUNE, deterministic=True)


def sample_records(directory: Path, count: int, split: str = "train") -> tf.RaggedTensor:
    """The first pairs of the records as documents of two paragraphs, in memory.

    Args:
        directory: the folder of the records.
        count: how many pairs to read; pairs of two different documents are left out.
        split: "train" or "held_out".

    Returns:
        ids, int32, ragged [documents, (2), (tokens)], as `tokenize_documents` returns them.

    Raises:
        ValueError: as `read_records`.
    """
    shards = tf.data.Dataset.from_tensor_slices(_columns(_manifest(directory, split)[split]))
    records = shards.flat_map(_records).take(count).batch(count)
    first, second, is_random = parse(next(iter(records)))
    return tf.ragged.boolean_mask(tf.stack([first, second], axis=1), is_random == 0)


def parse(records: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.Tensor]:
    """Parse strings `[B]`: first and second, ragged int32 `[B, (T)]`, and is_random `[B]`."""
    tokens = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    parsed = tf.io.parse_example(
        records,
        {"first": tokens, "second": tokens, "is_random": tf.io.FixedLenFeature([], tf.int64)},
    )
    return tuple(tf.cast(parsed[name], tf.int32) for name in ("first", "second", "is_random"))


def vocabulary_checksum(tokenizer: BertTokenizer) -> int:
    """The CRC-32 of the vocabulary."""
    return zlib.crc32("\n".join(tokenizer.vocabulary).encode())


def checksum(path: str) -> int:
    """The CRC-32 of a file."""
    total = 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while chunk := file.read(CHUNK):
            total = zlib.crc32(chunk, total)
    return total


def _records(path: tf.Tensor, expected: tf.Tensor) -> tf.data.Dataset:
    """The serialized records of a shard, after a check whose error names the file."""
    checked = tf.numpy_function(_checked, [path, expected], tf.string)
    return tf.data.TFRecordDataset(tf.reshape(checked, []))


def _columns(shards: list[dict]) -> tuple[tf.Tensor, tf.Tensor]:
    paths = tf.constant([shard["path"] for shard in shards])
    return paths, tf.constant([shard["crc32"] for shard in shards], tf.int64)


def _checked(path: bytes, expected: int) -> bytes:
    name = path.decode()
    if checksum(name) != expected:
        raise ValueError(f"`directory` must hold the shards as written, got {name} damaged")
    return path


def _manifest(directory: Path, split: str) -> Config:
    """The content of `records.json` with full paths; the sizes of the shards are checked."""
    directory = os.fspath(directory)
    path = os.path.join(directory, MANIFEST)
    if not tf.io.gfile.exists(path):
        raise ValueError(
            f"`directory` must hold records, got {directory} without {MANIFEST}, which is written "
            "when all shards are complete"
        )
    with tf.io.gfile.GFile(path) as file:
        manifest = json.load(file)
    if not manifest.get(split):
        raise ValueError(f"`split` must be train or held_out and in the records, got {split!r}")
    for shard in manifest[split]:
        shard["path"] = os.path.join(directory, shard["name"])
        size = tf.io.gfile.stat(shard["path"]).length if tf.io.gfile.exists(shard["path"]) else None
        if size != shard["bytes"]:
            found = "which is missing" if size is None else f"of {size} bytes"
            raise ValueError(
                f"`directory` must hold the shards as written, got {shard['path']} {found} instead "
                f"of {shard['bytes']} bytes"
            )
    return manifest
