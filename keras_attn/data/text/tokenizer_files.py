"""The files of transformers, `tokenizers` and `sentencepiece` to a tokenizer."""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_attn.data.text.byte_pair_tokenizer import NORMALIZERS, BytePairTokenizer
from keras_attn.data.text.files import read_json, read_lines
from keras_attn.data.text.sentence_piece_tokenizer import SentencePieceTokenizer
from keras_attn.data.text.subwords import ROLES
from keras_attn.data.text.unigram_tokenizer import UnigramTokenizer, described

# What each role is called in tokenizer_config.json, the first that is there.
_ROLES = {
    "cls": ("cls_token", "bos_token"),
    "sep": ("sep_token", "eos_token"),
    "pad": ("pad_token",),
    "unk": ("unk_token",),
    "mask": ("mask_token",),
}
# The classes of transformers with the ids of a `.model`; None where no file names one.
_OWN_IDS = (None, "LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast")
# Keys of a BPE model and the only values that byte pairs here know.
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
    """Reads a tokenizer of byte pairs (GPT-2, RoBERTa, ModernBERT) or of SentencePiece's kind.

    Args:
        path: a tokenizer.json, a SentencePiece `.model`, or a directory with one of them (the
            first, where there are both) or with vocab.json and merges.txt. tokenizer_config.json
            beside it names the special tokens, where it is there.

    Raises:
        ValueError: files that are missing or cannot be read; a tokenizer.json that asks for
            another model, pre-tokenizer or normalizer than are supported; a `.model` whose
            tokens have other ids in the checkpoint: the message says what is supported.

    Example:
    >>> read_tokenizer("roberta-base")(["Hello"])  # doctest: +SKIP
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"`path` must be a file or a directory, got {path}, where nothing is")
    directory = path if path.is_dir() else path.parent
    file = directory / "tokenizer.json" if path.is_dir() else path
    settings = _settings(directory)
    with _reading(directory / "tokenizer_config.json"):
        special_tokens = {
            role: _content(token)
            for role, keys in _ROLES.items()
            for token in [next((settings[key] for key in keys if settings.get(key)), None)]
            if token is not None
        }
    models = sorted(directory.glob("*.model")) if path.is_dir() else []
    if file.exists() and file.suffix == ".model":
        models = [file]
    elif file.exists():
        models = []
    if models:
        with _reading(models[0]):
            return _sentence_piece(models, settings, special_tokens)
    content = read_json(file) if file.exists() else {}
    with _reading(path):
        if (content.get("model") or {}).get("type") == "Unigram":
            tokenizer = UnigramTokenizer(content, **_rows(content.get("post_processor") or {}))
            return _with_special_tokens(tokenizer, special_tokens)
        if content:
            arguments = _tokenizer_json(content, file)
        else:
            arguments = _vocabulary_and_merges(directory, settings)
        known = _known(special_tokens, arguments["vocabulary"])
        return BytePairTokenizer(**arguments, special_tokens=known)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever cannot be read becomes a ValueError that names the file or directory."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
    except (AttributeError, IndexError, KeyError, OSError, TypeError) as error:
        raise ValueError(
            f"{path} must be as transformers and tokenizers write it, "
            f"got what ends in {type(error).__name__}: {error}"
        ) from error


def _settings(directory: Path) -> dict[str, Any]:
    """tokenizer_config.json with special_tokens_map.json, which counts where it has no tokens."""
    file = directory / "tokenizer_config.json"
    settings = read_json(file) if file.exists() else {}
    file = directory / "special_tokens_map.json"
    if file.exists() and "added_tokens_decoder" not in settings:
        settings |= read_json(file)
    return settings


def _with_special_tokens(tokenizer: Any, special_tokens: Mapping[str, str]) -> Any:
    """The tokenizer with those of the special tokens that its vocabulary has."""
    known = _known(special_tokens, tokenizer.vocabulary)
    return type(tokenizer).from_config({**tokenizer.get_config(), "special_tokens": known})


def _known(special_tokens: Mapping[str, str], vocabulary: Collection[str]) -> dict[str, str]:
    return {role: token for role, token in special_tokens.items() if token in vocabulary}


def _sentence_piece(
    models: list[Path], settings: dict, special_tokens: Mapping[str, str]
) -> SentencePieceTokenizer:
    """A `.model`, whose ids must be those of the checkpoint."""
    file, *others = models
    if others:
        raise ValueError(
            f"{file.parent} must hold one SentencePiece model, "
            f"got {', '.join(model.name for model in models)}"
        )
    kind = settings.get("tokenizer_class")
    if kind not in _OWN_IDS:
        raise ValueError(
            f"{file}: a SentencePiece model is read by itself or as that of LlamaTokenizer or "
            "PreTrainedTokenizerFast, whose ids are those of the model, "
            f"got {kind}: let transformers write tokenizer.json"
        )
    if not settings.get("add_prefix_space", True):
        raise ValueError(f"{file}: add_prefix_space must be true or null, got false")
    try:
        tokenizer = SentencePieceTokenizer(
            file.read_bytes(), adds_cls=settings.get("add_bos_token", "Llama" in (kind or ""))
        )
        vocabulary = tokenizer.vocabulary
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    for index, token in (settings.get("added_tokens_decoder") or {}).items():
        if vocabulary[int(index) :][:1] != [_content(token)]:
            raise ValueError(
                f"{file}: the tokens of tokenizer_config.json must have their ids in the model, "
                f"got {_content(token)!r} with {index}: let transformers write tokenizer.json"
            )
    return _with_special_tokens(tokenizer, special_tokens)


def _tokenizer_json(content: dict, file: Path) -> dict[str, Any]:
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
            f"{file}: the pre-tokenizer must be ByteLevel with its own expression, "
            f"got {described(before)}"
        )
    normalizer = content.get("normalizer") or {}
    parts = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]
    names = [part["type"] for part in parts if part]
    if len(names) > 1 or not set(NORMALIZERS).issuperset(names):
        raise ValueError(
            f"{file}: the normalizer must be null or one of {', '.join(NORMALIZERS)}, "
            f"got {described(normalizer)}"
        )
    added = content.get("added_tokens") or []
    return {
        "vocabulary": model["vocab"] | {token["content"]: token["id"] for token in added},
        "merges": [m if isinstance(m, str) else " ".join(m) for m in model["merges"]],
        "added_tokens": added,
        "normalizer": names[0] if names else None,
        "add_prefix_space": before.get("add_prefix_space", True),
        "unknown_token": model.get("unk_token"),
        **_rows(content.get("post_processor") or {}),
    }


def _rows(processor: dict) -> dict[str, Any]:
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


def _vocabulary_and_merges(directory: Path, settings: dict) -> dict[str, Any]:
    missing = [n for n in ("vocab.json", "merges.txt") if not (directory / n).exists()]
    if missing:
        raise ValueError(
            f"{directory} must hold tokenizer.json, a .model, or vocab.json and merges.txt, "
            f"has no {' and no '.join(missing)}"
        )
    ids = read_json(directory / "vocab.json")
    file = directory / "added_tokens.json"
    ids |= read_json(file) if file.exists() else {}
    with _reading(directory / "tokenizer_config.json"):
        listed = settings.get("added_tokens_decoder") or {}
        added = {token["content"]: dict(token) for token in listed.values()}
        ids |= {token["content"]: int(index) for index, token in listed.items()}
    roles = {}
    for role, keys in _ROLES.items():
        # Tokens that no file names have their usual names, as in the classes of transformers.
        named = [settings[key] for key in keys if settings.get(key)]
        named = named or [name for name in ROLES[role] if name in ids][:1]
        roles[role] = [_content(token) for token in named]
        for token in named:
            if _content(token) in ids:
                more = {} if isinstance(token, str) else token
                added.setdefault(
                    _content(token), {**more, "content": _content(token), "special": True}
                )
    adds_cls = roles["cls"][:1] != roles["sep"][:1]
    with _reading(directory / "merges.txt"):
        lines = [line for _, line in read_lines(directory / "merges.txt")]
    return {
        "vocabulary": ids,
        "merges": [line for line in lines if line and not line.startswith("#version")],
        "added_tokens": list(added.values()),
        "add_prefix_space": bool(settings.get("add_prefix_space", False)),
        "adds_cls": adds_cls,
        "separators": 2 if adds_cls else 1,  # RoBERTa and its kin alone have these files and both
    }


def _content(token: str | dict) -> str:
    return token if isinstance(token, str) else token["content"]
