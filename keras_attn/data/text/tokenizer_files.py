"""Makes a tokenizer from the files of transformers, `tokenizers` or `sentencepiece`."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from keras_attn._typing import Config
from keras_attn.data.text.byte_pair_tokenizer import NORMALIZERS, BytePairTokenizer
from keras_attn.data.text.files import read_json, read_lines
from keras_attn.data.text.sentence_piece_tokenizer import SentencePieceTokenizer
from keras_attn.data.text.subwords import ROLES
from keras_attn.data.text.tokenizer_settings import (
    ROLE_KEYS,
    added_tokens,
    content_of,
    listed_ids,
    read_settings,
    reading,
)
from keras_attn.data.text.unigram_tokenizer import UnigramTokenizer, described

# The classes of transformers that keep the ids of a `.model`; None: no file names a class.
_SAME_IDS = (None, "LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast")
# The classes of transformers that take `add_prefix_space` from tokenizer.json alone.
_GENERIC = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
# Keys of a BPE model that must have one of these values.
_MODEL = {
    "dropout": (None, 0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "fuse_unk": (None, False),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}


def read_tokenizer(
    path: str | os.PathLike,
) -> BytePairTokenizer | SentencePieceTokenizer | UnigramTokenizer:
    """Read a byte-pair tokenizer (GPT-2, RoBERTa, ModernBERT) or a SentencePiece tokenizer.

    Args:
        path: a tokenizer.json, a SentencePiece `.model`, or a directory. A directory has a
            tokenizer.json, a `.model`, or vocab.json and merges.txt; the first of these is read.
            tokenizer_config.json, special_tokens_map.json and added_tokens.json in the same
            directory are read too if they exist: they name special tokens and added tokens.

    Raises:
        ValueError: files are missing or cannot be read; a tokenizer.json has a model,
            pre-tokenizer, normalizer or decoder that is not supported; the tokens of a `.model`
            have other ids in the checkpoint; an additional special token is not in the vocabulary.
            The message says what is supported.

    Example:
    >>> read_tokenizer("roberta-base")(["Hello"])  # doctest: +SKIP
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"`path` must be a file or a directory, got {path}, which does not exist")
    directory = path if path.is_dir() else path.parent
    file = directory / "tokenizer.json" if path.is_dir() else path
    with reading(directory / "tokenizer_config.json"):
        settings = read_settings(directory)
        special_tokens = {
            role: content_of(token)
            for role, keys in ROLE_KEYS.items()
            for token in [next((settings[key] for key in keys if settings.get(key)), None)]
            if token is not None
        }
    models = sorted(directory.glob("*.model")) if path.is_dir() else []
    if file.exists() and file.suffix == ".model":
        models = [file]
    elif file.exists():
        models = []
    if models:
        with reading(models[0]):
            return _sentence_piece(models, settings, special_tokens)
    content = read_json(file) if file.exists() else {}
    with reading(path):
        if (content.get("model") or {}).get("type") == "Unigram":
            rows = _rows(content.get("post_processor") or {})
            vocabulary = UnigramTokenizer(content).vocabulary
            ids = {token: index for index, token in enumerate(vocabulary)} | listed_ids(settings)
            added = added_tokens(content.get("added_tokens") or [], ids, settings)
            added = [{**token, "id": ids[token["content"]]} for token in added]
            tokenizer = UnigramTokenizer({**content, "added_tokens": added}, **rows)
            return _with_special_tokens(tokenizer, special_tokens)
        if content:
            arguments = _tokenizer_json(content, file, settings)
        else:
            arguments = _vocabulary_and_merges(directory, settings)
        known = _known(special_tokens, arguments["vocabulary"])
        return BytePairTokenizer(**arguments, special_tokens=known)


def _with_special_tokens(tokenizer: Any, special_tokens: Mapping[str, str]) -> Any:
    """The tokenizer with those of the special tokens that its vocabulary has."""
    known = _known(special_tokens, tokenizer.vocabulary)
    return type(tokenizer).from_config({**tokenizer.get_config(), "special_tokens": known})


def _known(special_tokens: Mapping[str, str], vocabulary: Collection[str]) -> dict[str, str]:
    return {role: token for role, token in special_tokens.items() if token in vocabulary}


def _sentence_piece(
    models: list[Path], settings: dict, special_tokens: Mapping[str, str]
) -> SentencePieceTokenizer:
    """The tokenizer of a `.model`, which must have the ids of the checkpoint."""
    file, *others = models
    if others:
        raise ValueError(
            f"{file.parent} must hold one SentencePiece model, "
            f"got {', '.join(model.name for model in models)}"
        )
    kind = settings.get("tokenizer_class")
    if kind not in _SAME_IDS:
        raise ValueError(
            f"{file}: the tokenizer_class of a SentencePiece model must be LlamaTokenizer, "
            "PreTrainedTokenizerFast or not given, since other classes change the ids, "
            f"got {kind}: let transformers write tokenizer.json"
        )
    if settings.get("add_prefix_space") is False:
        raise ValueError(f"{file}: add_prefix_space must be true or null, got false")
    try:
        tokenizer = SentencePieceTokenizer(
            file.read_bytes(), adds_cls=settings.get("add_bos_token", "Llama" in (kind or ""))
        )
        vocabulary = tokenizer.vocabulary
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    for token, index in listed_ids(settings).items():
        if vocabulary[index:][:1] != [token]:
            raise ValueError(
                f"{file}: the tokens of tokenizer_config.json must have their ids in the model, "
                f"got {token!r} with {index}: let transformers write tokenizer.json"
            )
    # Like the package, the model does not find its control tokens in a text.
    control = {*special_tokens.values(), *(name for names in ROLES.values() for name in names)}
    for token in added_tokens([], tokenizer._ids, settings):
        name = token["content"]
        if name not in control and tokenizer._ids[name] not in tokenizer([name]).to_list()[0]:
            raise ValueError(
                f"{file}: added tokens must be user-defined symbols of the model, "
                f"got {name!r}: let transformers write tokenizer.json"
            )
    return _with_special_tokens(tokenizer, special_tokens)


def _tokenizer_json(content: dict, file: Path, settings: dict) -> Config:
    model = content.get("model") or {}
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"{file}: the model must be BPE or Unigram, got {model['type']}")
    if not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        raise ValueError(f"{file}: the model must have vocab and merges, got {', '.join(model)}")
    for key, values in _MODEL.items():
        if model.get(key) not in values:
            raise ValueError(f"{file}: {key} must be {values[1]!r} or null, got {model[key]!r}")
    before = content.get("pre_tokenizer") or {}
    if before.get("type") != "ByteLevel" or not before.get("use_regex", True):
        raise ValueError(
            f"{file}: the pre-tokenizer must be ByteLevel with use_regex, got {described(before)}"
        )
    # Without one the package gives no text but tokens; `detokenize` gives the text then too.
    decoder = content.get("decoder") or {"type": "ByteLevel"}
    if decoder.get("type") != "ByteLevel":
        raise ValueError(f"{file}: the decoder must be ByteLevel or null, got {described(decoder)}")
    normalizer = content.get("normalizer") or {}
    parts = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]
    names = [part["type"] for part in parts if part]
    if len(names) > 1 or not set(NORMALIZERS).issuperset(names):
        raise ValueError(
            f"{file}: the normalizer must be null or one of {', '.join(NORMALIZERS)}, "
            f"got {described(normalizer)}"
        )
    added = content.get("added_tokens") or []
    ids = model["vocab"] | {token["content"]: token["id"] for token in added}
    ids |= listed_ids(settings)
    prefix = before.get("add_prefix_space", True)
    if settings.get("tokenizer_class") not in _GENERIC:
        prefix = settings.get("add_prefix_space", prefix)
    return {
        "vocabulary": ids,
        "merges": [m if isinstance(m, str) else " ".join(m) for m in model["merges"]],
        "added_tokens": added_tokens(added, ids, settings),
        "normalizer": names[0] if names else None,
        "add_prefix_space": prefix,
        "unknown_token": model.get("unk_token"),
        **_rows(content.get("post_processor") or {}),
    }


def _rows(processor: dict) -> Config:
    """What a post-processor puts before a text, and between two."""
    if processor.get("type") == "Sequence":
        parts = [_rows(part) for part in processor["processors"]]
        return next((part for part in parts if part["adds_cls"]), _rows({}))
    if processor.get("type") == "TemplateProcessing":
        pair = processor["pair"]
        first, second = (place for place, part in enumerate(pair) if "Sequence" in part)
        adds_cls = "SpecialToken" in processor["single"][0]
        return {"adds_cls": adds_cls, "separators": max(1, second - first - 1)}
    names = {"BertProcessing": 1, "RobertaProcessing": 2}
    kind = processor.get("type")
    return {"adds_cls": kind in names, "separators": names.get(kind, 1)}


def _vocabulary_and_merges(directory: Path, settings: dict) -> Config:
    missing = [n for n in ("vocab.json", "merges.txt") if not (directory / n).exists()]
    if missing:
        raise ValueError(
            f"{directory} must have tokenizer.json, a .model, or vocab.json and merges.txt, "
            f"has no {' and no '.join(missing)}"
        )
    ids = read_json(directory / "vocab.json")
    with reading(directory / "tokenizer_config.json"):
        ids |= listed_ids(settings)
        roles = {}
        for role, keys in ROLE_KEYS.items():
            # Tokens that no file names have their usual names, as in the classes of transformers.
            named = [settings[key] for key in keys if settings.get(key)]
            roles[role] = named or [name for name in ROLES[role] if name in ids][:1]
        usual = {f"{role}_token": tokens[0] for role, tokens in roles.items() if tokens}
        added = added_tokens([], ids, {**settings, **usual})
        first, last = ([content_of(token) for token in roles[role][:1]] for role in ("cls", "sep"))
    adds_both = first != last
    with reading(directory / "merges.txt"):
        lines = [line for _, line in read_lines(directory / "merges.txt")]
    return {
        "vocabulary": ids,
        "merges": [line for line in lines if line and not line.startswith("#version")],
        "added_tokens": added,
        "add_prefix_space": bool(settings.get("add_prefix_space", False)),
        "adds_cls": adds_both or settings.get("add_bos_token") is True,
        "separators": 2 if adds_both else 1,  # only RoBERTa and similar models have these files
    }
