"""Writes pre-training pairs from text files to TFRecord shards, in parallel with Apache Beam.

A worker holds one group of documents in memory, whatever the size of the files.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from keras_attn._checks import optional_module
from keras_attn.data._tensorflow import tf
from keras_attn.data.pretraining.records import MANIFEST, checksum, vocabulary_checksum
from keras_attn.data.pretraining.sentence_pairs import SentencePairs
from keras_attn.data.pretraining.streams import rows_of
from keras_attn.data.text.documents import stream_documents, tokenize_documents
from keras_attn.data.text.files import Path
from keras_attn.data.text.tokenizer import BertTokenizer

LOCAL = ("--direct_running_mode=multi_processing", "--direct_num_workers=0")  # all cores
GROUP = 1 << 22  # characters of a group of documents; pairs are drawn within a group
LONGEST = 1 << 20  # characters of a document; a file without blank lines is cut
BATCH = 512  # pairs drawn at once


@dataclasses.dataclass(frozen=True)
class Shard:
    """What a worker needs to write one shard; small enough to be sent to it."""

    split: str
    name: str
    directory: str
    paths: tuple[str, ...]
    vocabulary: tuple[str, ...]
    lowercase: bool
    length: int
    held_out: float
    seed: int


def write_records(
    paths: Path | Sequence[Path],
    directory: Path,
    tokenizer: BertTokenizer,
    *,
    length: int,
    shards: int = 8,
    held_out: float = 0.05,
    seed: int = 0,
    beam_options: Sequence[str] = LOCAL,
) -> None:
    """Write pairs for `read_records`, about one pass over the text.

    A shard has the documents of whole files, so there are at most as many shards as files. The
    content of a document decides whether it is held out, so that copies of it are held out too. If
    the call is interrupted, the directory has no valid records: call it again.

    Args:
        paths: UTF-8 files as in `read_documents`, which every worker can read.
        directory: where to write, created if it does not exist; any path that tf.io.gfile takes.
        tokenizer: the tokenizer for the text.
        length: the length of the rows to fill.
        shards: the number of files for training. For held-out documents there are
            `held_out * shards` more, at least one, or none if `held_out` is 0.
        held_out: the fraction of documents in the split "held_out", in [0, 1).
        seed: an integer; the same seed, files and shards give the same records.
        beam_options: options of Beam's pipeline, such as `["--runner=DataflowRunner", ...]`;
            defaults to all cores of this machine.

    Raises:
        ValueError: a number is out of range, a file has no text or is not UTF-8, or the files of a
            shard have fewer than two documents of two paragraphs.
        ImportError: Apache Beam is not installed.

    Source: Devlin et al. 2019, appendix A.2.
    """
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    for name, value, least in (("paths", len(paths), 1), ("shards", shards, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}")
    if not 0 <= held_out < 1:
        raise ValueError(f"`held_out` must be in [0, 1), got {held_out}")
    purpose = "keras_attn.data.write_records"
    beam = optional_module("apache_beam", "beam", purpose)
    options = optional_module("apache_beam.options.pipeline_options", "beam", purpose)

    directory = os.fspath(directory)
    counts = {"train": min(shards, len(paths))}
    if held_out:
        counts["held_out"] = max(1, round(held_out * counts["train"]))
    todo = [
        Shard(
            split,
            f"{split}-{index:05d}-of-{count:05d}.tfrecord",
            str(directory),
            tuple(os.fspath(path) for path in paths[index::count]),
            tuple(tokenizer.vocabulary),
            tokenizer.lowercase,
            length,
            held_out,
            seed,
        )
        for split, count in counts.items()
        for index in range(count)
    ]
    tf.io.gfile.makedirs(directory)
    if tf.io.gfile.exists(os.path.join(directory, MANIFEST)):
        tf.io.gfile.remove(os.path.join(directory, MANIFEST))
    with beam.Pipeline(options=options.PipelineOptions(list(beam_options))) as pipeline:
        written = pipeline | beam.Create(todo) | beam.Reshuffle() | beam.Map(write_shard)
        _ = (
            written
            | beam.combiners.ToList()
            | beam.Map(finish, directory, vocabulary_checksum(tokenizer))
        )


def write_shard(shard: Shard) -> dict:
    """Write one shard, rename it when it is complete, and return its entry in the manifest."""
    path = os.path.join(shard.directory, shard.name)
    tokenizer = _tokenizer(shard.vocabulary, shard.lowercase)
    number = 0
    with tf.io.TFRecordWriter(f"{path}.partial") as writer:
        for first, second, is_random in _pairs(shard, tokenizer):
            writer.write(_example(first=first, second=second, is_random=[is_random]))
            number += 1
    tf.io.gfile.rename(f"{path}.partial", path, overwrite=True)
    return {
        "split": shard.split,
        "name": shard.name,
        "examples": number,
        "bytes": tf.io.gfile.stat(path).length,
        "crc32": checksum(path),
    }


def finish(shards: list[dict], directory: str, vocabulary: int) -> None:
    """Write the manifest; without it the shards do not count as records."""
    manifest: dict = {"vocabulary_crc32": vocabulary}
    for shard in sorted(shards, key=lambda shard: shard["name"]):
        manifest.setdefault(shard.pop("split"), []).append(shard)
    path = os.path.join(directory, MANIFEST)
    with tf.io.gfile.GFile(f"{path}.partial", "w") as file:
        json.dump(manifest, file, indent=1)
    tf.io.gfile.rename(f"{path}.partial", path, overwrite=True)


def _pairs(shard: Shard, tokenizer: BertTokenizer) -> Iterator[tuple[list, list, int]]:
    streams = (stream_documents(path, LONGEST) for path in shard.paths)
    documents = (
        document
        for document in itertools.chain.from_iterable(streams)
        if _is_held_out(document, shard) == (shard.split == "held_out")
    )
    for number, group in enumerate(groups(documents)):
        ids = tokenize_documents(group, tokenizer)
        name = zlib.crc32(shard.name.encode())
        seed = np.random.SeedSequence([shard.seed, name, number]).generate_state(1)
        try:
            draw = SentencePairs(ids, shard.length - 3, int(seed[0]))
        except ValueError as error:
            raise ValueError(
                "`paths` must hold at least two documents of two paragraphs for each shard, "
                f"got {', '.join(shard.paths)} for {shard.name}"
            ) from error
        count = rows_of(ids, shard.length)
        for start in range(0, count, BATCH):
            drawn = draw(tf.range(start, min(start + BATCH, count), dtype=tf.int64))
            first, second, is_random = drawn
            yield from zip(
                first.to_list(), second.to_list(), is_random.numpy().tolist(), strict=True
            )


def groups(documents: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    """Groups of documents with at least `GROUP` characters; the rest belongs to the last group."""
    waiting: list[list[str]] = []
    group: list[list[str]] = []
    size = 0
    for document in documents:
        group.append(document)
        size += sum(map(len, document))
        if size >= GROUP:
            if waiting:
                yield waiting
            waiting, group, size = group, [], 0
    if waiting or group:
        yield waiting + group


def _is_held_out(document: list[str], shard: Shard) -> bool:
    return zlib.crc32("\n".join(document).encode(), shard.seed) < shard.held_out * 2**32


def _example(**features: list[int]) -> bytes:
    feature = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        for name, values in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


@functools.cache
def _tokenizer(vocabulary: tuple[str, ...], lowercase: bool) -> BertTokenizer:
    return BertTokenizer(vocabulary, lowercase)
