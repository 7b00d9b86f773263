"""Writes a tokenizer as the files that the library transformers reads."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from keras_attn._typing import Config
from keras_attn.data.text.byte_pair_tokenizer import BytePairTokenizer
from keras_attn.data.text.sentence_piece_tokenizer import SentencePieceTokenizer
from keras_attn.data.text.subwords import ROLES, SubwordTokenizer
from keras_attn.data.text.unigram_tokenizer import UnigramTokenizer

# What this package and transformers read as the files of a tokenizer.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "*.model"),
)
_BYTE_LEVEL = {"type": "ByteLevel", "trim_offsets": False, "use_regex": True}


def write_tokenizer(
    tokenizer: BytePairTokenizer | SentencePieceTokenizer | UnigramTokenizer,
    directory: str | os.PathLike,
    *,
    segments: bool = False,
) -> None:
    """Write the files from which `read_tokenizer` and transformers make the same tokenizer.

    These are tokenizer.json, or tokenizer.model for a `SentencePieceTokenizer`, and
    tokenizer_config.json. From a tokenizer.json transformers makes the same ids, and it adds the
    special tokens of the checkpoint. A tokenizer.model is converted by transformers: the ids may
    then differ for a few texts, such as some with combining characters, and no special tokens are
    added.

    Args:
        tokenizer: a tokenizer as `read_tokenizer` returns it.
        directory: created if it does not exist; files of these names are replaced when all are
            written, and there must be no others of a tokenizer, which would be read instead or with
            them.
        segments: whether the model has segment ids for the second of two texts.

    Raises:
        ValueError: a tokenizer of another class, or other tokenizer files in the directory.

    Example:
    >>> import tempfile
    >>> tokenizer = BytePairTokenizer({"a": 0, "b": 1, "ab": 2}, ["a b"])
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     write_tokenizer(tokenizer, directory)
    ...     print(sorted(os.listdir(directory)))
    ['tokenizer.json', 'tokenizer_config.json']
    """
    files: Config = {}
    if isinstance(tokenizer, UnigramTokenizer):
        files["tokenizer.json"] = json.loads(tokenizer.file)
    elif isinstance(tokenizer, BytePairTokenizer):
        files["tokenizer.json"] = _byte_pairs(tokenizer)
    elif not isinstance(tokenizer, SentencePieceTokenizer):
        raise ValueError(
            "`tokenizer` must be a BytePairTokenizer, SentencePieceTokenizer or UnigramTokenizer, "
            f"got {type(tokenizer).__name__}"
        )
    names = _special_names(tokenizer)
    segments = segments and tokenizer.separators == 1  # two separators are in place of segments
    settings: Config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", *["token_type_ids"] * segments, "attention_mask"],
    }
    if not tokenizer.adds_cls:
        names["bos"], names["eos"] = names.pop("cls", None), names.pop("sep", None)
    elif tokenizer.separators > 1:  # RoBERTa has one token for both roles
        names["bos"], names["eos"] = names["cls"], names["sep"]
    settings |= {f"{role}_token": name for role, name in names.items() if name is not None}
    directory = Path(directory)
    files["tokenizer_config.json"] = settings
    sentence_piece = isinstance(tokenizer, SentencePieceTokenizer)
    check_no_others(directory, TOKENIZER_FILES, [*files, *["tokenizer.model"] * sentence_piece])
    with moved_when_complete(directory) as folder:
        if sentence_piece:
            (folder / "tokenizer.model").write_bytes(base64.b64decode(tokenizer.model))
        for name, value in files.items():
            text = json.dumps(value, indent=2, ensure_ascii=False)
            (folder / name).write_text(text + "\n", encoding="utf-8", newline="\n")


@contextlib.contextmanager
def moved_when_complete(directory: Path) -> Iterator[Path]:
    """A new folder; if nothing fails, its files are moved to the directory at the end."""
    if directory.is_file():
        raise ValueError(f"`directory` must not be a file, got {directory}")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".incomplete-") as name:
        folder = Path(name)
        yield folder
        for path in sorted(folder.rglob("*")):
            target = directory / path.relative_to(folder)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                path.replace(target)


def check_no_others(directory: Path, patterns: Iterable[str], written: Iterable[str]) -> None:
    """Raise a ValueError for files that would be left beside those that are `written`."""
    found = {file.name for pattern in patterns for file in directory.glob(pattern)}
    if left := sorted(found.difference(written)):
        raise ValueError(
            f"`directory` must have no files that would be read instead of the new ones, or with "
            f"them, got {directory} with {', '.join(left)}: remove them or choose another directory"
        )


def _special_names(tokenizer: SubwordTokenizer) -> Config:
    """The token of each role that the tokenizer has.

    A token of byte pairs may have the usual name of a role and be none: only added ones are.
    """
    names = {}
    roles = set(tokenizer.special_tokens.values())
    if isinstance(tokenizer, BytePairTokenizer):
        roles |= {token["content"] for token in tokenizer.get_config()["added_tokens"]}
    else:
        roles |= set(tokenizer.vocabulary)
    for role in ROLES:
        try:
            name = tokenizer.vocabulary[getattr(tokenizer, f"{role}_id")]
        except ValueError:
            continue  # no token for it
        if name in roles:
            names[role] = name
    return names


def _byte_pairs(tokenizer: BytePairTokenizer) -> Config:
    """The content of tokenizer.json."""
    config = tokenizer.get_config()
    added = [
        {
            "id": config["vocabulary"][token["content"]],
            "content": token["content"],
            "single_word": False,
            **{key: bool(token.get(key)) for key in ("lstrip", "rstrip", "normalized", "special")},
        }
        for token in config["added_tokens"]
    ]
    form = config["normalizer"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": form and {"type": form},
        "pre_tokenizer": {**_BYTE_LEVEL, "add_prefix_space": config["add_prefix_space"]},
        "post_processor": (
            _template(tokenizer)
            if tokenizer.adds_cls
            else {**_BYTE_LEVEL, "add_prefix_space": True}
        ),
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": config["unknown_token"],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": config["vocabulary"],
            "merges": [merge.split(" ") for merge in config["merges"]],
        },
    }


def _template(tokenizer: BytePairTokenizer) -> Config:
    """The post-processor that adds the special tokens to one text and to two."""

    def special(role: str, segment: int) -> Config:
        token = tokenizer.vocabulary[getattr(tokenizer, f"{role}_id")]
        return {"SpecialToken": {"id": token, "type_id": segment}}

    single = [special("cls", 0), {"Sequence": {"id": "A", "type_id": 0}}, special("sep", 0)]
    second = int(tokenizer.separators == 1)  # models with several separators have no segments
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [
            *single,
            *[special("sep", 0)] * (tokenizer.separators - 1),
            {"Sequence": {"id": "B", "type_id": second}},
            special("sep", second),
        ],
        "special_tokens": {
            name: {"id": name, "ids": [index], "tokens": [name]}
            for index in (tokenizer.cls_id, tokenizer.sep_id)
            for name in [tokenizer.vocabulary[index]]
        },
    }
