"""Small text files, and records written from them without Beam."""

from keras_attn.data import BertTokenizer
from keras_attn.data.pretraining.record_writer import Shard, finish, write_shard
from keras_attn.data.pretraining.records import vocabulary_checksum

LENGTH = 13
WORDS = [f"w{number}" for number in range(400)]
TOKENIZER = BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
PARAGRAPHS = 4  # per document, three words each; no word is in two documents


def write_text(folder, files=3, documents=7):
    """Write files of documents; each document has its own words, in ascending order."""
    paths, words = [], iter(WORDS)
    for number in range(files):
        text = "\n\n".join(
            "\n".join(" ".join(next(words) for _ in range(3)) for _ in range(PARAGRAPHS))
            for _ in range(documents)
        )
        paths.append(folder / f"{number}.txt")
        paths[-1].write_text(text + "\n", encoding="utf-8")
    return paths


def shard(folder, paths, name="train-0", split="train", held_out=0.0, length=LENGTH, seed=3):
    """The plan of one shard."""
    tokens = tuple(TOKENIZER.vocabulary)
    paths = tuple(map(str, paths))
    return Shard(split, name, str(folder), paths, tokens, True, length, held_out, seed)


def write(folder, paths, held_out=0.0):
    """Write one shard per file, and one of held-out documents if a fraction is given."""
    shards = [
        shard(folder, [path], f"train-{i}", "train", held_out) for i, path in enumerate(paths)
    ]
    if held_out:
        shards.append(shard(folder, paths, "held_out-0", "held_out", held_out))
    finish([write_shard(each) for each in shards], str(folder), vocabulary_checksum(TOKENIZER))
