"""Reads special and added tokens from tokenizer_config.json and the older files for them."""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from keras_attn._typing import Config
from keras_attn.data.text.files import read_json
from keras_attn.data.text.normalization import SPECIAL_TOKENS

# The keys of tokenizer_config.json for each role; the first one that has a value counts.
ROLE_KEYS = {
    "cls": ("cls_token", "bos_token"),
    "sep": ("sep_token", "eos_token"),
    "pad": ("pad_token",),
    "unk": ("unk_token",),
    "mask": ("mask_token",),
}


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of reading into a ValueError that names the file or directory."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
    except (AttributeError, IndexError, KeyError, OSError, TypeError) as error:
        raise ValueError(
            f"{path} must be as transformers and tokenizers write it, "
            f"got a file that raises {type(error).__name__}: {error}"
        ) from error


def read_settings(directory: Path) -> Config:
    """The content of tokenizer_config.json, with that of two files of older directories.

    special_tokens_map.json and added_tokens.json are read only if tokenizer_config.json has no
    added_tokens_decoder, as in transformers.
    """
    file = directory / "tokenizer_config.json"
    settings = read_json(file) if file.exists() else {}
    if "added_tokens_decoder" not in settings:
        file = directory / "special_tokens_map.json"
        named = read_json(file) if file.exists() else {}
        more = [*_additional(settings), *_additional(named)]
        settings |= named
        if more:
            settings["extra_special_tokens"] = more
        file = directory / "added_tokens.json"
        if file.exists():
            special = {content_of(token) for token in _named_tokens(settings)}
            settings["added_tokens_decoder"] = {
                index: {
                    "content": token,
                    "normalized": token not in special,
                    "special": token in special,
                }
                for token, index in read_json(file).items()
            }
    if settings.get("split_special_tokens"):
        raise ValueError(
            f"{directory / 'tokenizer_config.json'}: split_special_tokens must be false, got true"
        )
    return settings


def _additional(settings: Config) -> list[str | dict]:
    """The special tokens without a role; transformers has two keys for them."""
    tokens = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    return list(tokens.values()) if isinstance(tokens, dict) else tokens


def _named_tokens(settings: Config) -> list[str | dict]:
    """All special tokens that the settings name: those of keys such as mask_token, then others."""
    keys = (key for key in settings if key.endswith("_token"))
    own = [settings[key] for key in keys if isinstance(settings[key], str | dict)]
    return [*own, *_additional(settings)]


def added_tokens(
    listed: Collection[Config], ids: Mapping[str, int], settings: Config
) -> list[Config]:
    """The added tokens of a file, with those that only the settings name.

    Raises:
        ValueError: an additional special token has no id.
    """
    added = {token["content"]: dict(token) for token in listed}
    for token in (settings.get("added_tokens_decoder") or {}).values():
        normalized = {"normalized": not token.get("special")}  # the default of tokenizers
        added.setdefault(token["content"], normalized | token)
    for token in _named_tokens(settings):
        if content_of(token) in ids:
            flags = {} if isinstance(token, str) else token
            added.setdefault(
                content_of(token), {**flags, "content": content_of(token), "special": True}
            )
    missing = [
        content_of(token) for token in _additional(settings) if content_of(token) not in added
    ]
    if missing:
        raise ValueError(
            "`additional_special_tokens` must be in the vocabulary, "
            f"got {missing[0]!r}: let transformers write tokenizer.json"
        )
    return list(added.values())


def listed_ids(settings: Config) -> dict[str, int]:
    """The ids of the tokens that tokenizer_config.json lists."""
    listed = settings.get("added_tokens_decoder") or {}
    for index in listed:
        if not str(index).isdecimal():
            raise ValueError(
                f"a key of `added_tokens_decoder` in tokenizer_config.json must be an id, "
                f"got {index!r}"
            )
    return {content_of(token): int(index) for index, token in listed.items()}


def content_of(token: str | dict) -> str:
    """The text of a token, which older files write as a string and newer ones as an object."""
    return token if isinstance(token, str) else token["content"]


def check_word_piece(directory: Path, lowercase: bool) -> None:
    """Raise unless `BertTokenizer` splits text as the files of a directory ask for.

    Args:
        directory: the checkpoint's directory.
        lowercase: the argument of `BertTokenizer`.

    Raises:
        ValueError: a setting that changes the ids and that `BertTokenizer` does not have, or an
            added token that it does not find.
    """
    with reading(directory):
        settings = read_settings(directory)
        file = directory / "tokenizer.json"
        content = read_json(file) if file.exists() else {}
        model, normalizer = content.get("model") or {}, content.get("normalizer") or {}
        before = content.get("pre_tokenizer") or {}
        stripped = settings.get("strip_accents", normalizer.get("strip_accents"))
        chinese = normalizer.get("handle_chinese_chars", True)
        unknown = settings.get("unk_token") or model.get("unk_token")
        for name, value, expected in (
            ("strip_accents", lowercase if stripped is None else stripped, lowercase),
            ("tokenize_chinese_chars", settings.get("tokenize_chinese_chars", chinese), True),
            ("do_basic_tokenize", settings.get("do_basic_tokenize", True), True),
            ("clean_text", normalizer.get("clean_text", True), True),
            ("the model", model.get("type", "WordPiece"), "WordPiece"),
            ("continuing_subword_prefix", model.get("continuing_subword_prefix", "##"), "##"),
            ("unk_token", content_of(unknown or "[UNK]"), "[UNK]"),
            ("cls_token", content_of(settings.get("cls_token") or "[CLS]"), "[CLS]"),
            ("sep_token", content_of(settings.get("sep_token") or "[SEP]"), "[SEP]"),
            ("max_input_chars_per_word", model.get("max_input_chars_per_word", 100), 100),
            ("the normalizer", normalizer.get("type", "BertNormalizer"), "BertNormalizer"),
            ("the pre-tokenizer", before.get("type", "BertPreTokenizer"), "BertPreTokenizer"),
        ):
            if value != expected:
                raise ValueError(
                    f"{directory}: {name} must be {expected!r} for a BertTokenizer, got {value!r}"
                )
        listed = [
            *(content.get("added_tokens") or []),
            *listed_ids(settings),
            *_named_tokens(settings),
        ]
        other = [token for token in map(content_of, listed) if token not in SPECIAL_TOKENS]
        if other:
            raise ValueError(
                f"{directory}: the added tokens must be among {', '.join(SPECIAL_TOKENS)} for a "
                f"BertTokenizer, got {other[0]!r}"
            )
