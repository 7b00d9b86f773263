"""Prepare text of any size for pre-training: write files as TFRecord shards, in parallel.

    python examples/bert_records.py --text corpus/*.txt --output runs/records
    python examples/bert_pretrain.py --records runs/records

Each line is a paragraph, a blank line ends a document; files whose names end in .gz are
decompressed. No file is read into memory as a whole. Apache Beam (pip install apache-beam) uses all
cores of this machine, or runs with its own options after --beam at the end of the line, such as
--beam --runner=DataflowRunner. Without --text, the embedded corpus is first written to files.
"""

import argparse
import itertools
import os
import pathlib
import shlex

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _runs
import _shared

from keras_attn import data

VOCABULARY_SIZE = 8000
LENGTH = 64  # as in bert_pretrain.py


def embedded_corpus(folder: pathlib.Path) -> list[pathlib.Path]:
    """LibreOffice Help in English as text, one file for each module."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = data.table_documents(data.read_table(_shared.CORPUS), "en")
    paths = []
    for module, items in itertools.groupby(documents.items(), lambda x: x[0].split("/")[0]):
        paths.append(folder / f"{module}.txt")
        text = "\n\n".join("\n".join(paragraphs) for _, paragraphs in items)
        paths[-1].write_text(text + "\n", encoding="utf-8")
    return paths


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = _runs.options(__doc__, "records")
    parser.add_argument("--text", nargs="+", type=pathlib.Path, help="UTF-8 files")
    parser.add_argument("--vocabulary", type=pathlib.Path, help="a vocab.txt; trained if missing")
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens in a row")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--held-out", type=float, default=0.05)
    parser.add_argument(
        "--beam",
        nargs=argparse.REMAINDER,
        default=[],
        help="the rest of the line are options of Apache Beam, such as --runner=DataflowRunner",
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    output = arguments.output
    _runs.begin(arguments)
    paths = arguments.text or embedded_corpus(output / "text")

    if arguments.vocabulary:
        vocabulary = data.read_vocabulary(arguments.vocabulary)
    else:
        documents = itertools.chain.from_iterable(map(data.stream_documents, paths))
        paragraphs = itertools.chain.from_iterable(documents)
        vocabulary = data.train_vocabulary(paragraphs, VOCABULARY_SIZE)
    _shared.write_vocabulary(output, vocabulary)
    options = {"beam_options": arguments.beam} if arguments.beam else {}
    data.write_records(
        paths,
        output,
        data.BertTokenizer(vocabulary),
        length=arguments.length,
        shards=arguments.shards,
        held_out=arguments.held_out,
        **options,
    )
    print(f"python examples/bert_pretrain.py --records {shlex.quote(os.fspath(output))}")


if __name__ == "__main__":
    _runs.run(main, options())
